/* The page: the user's choices, and what follows from them. `paretoprune.show(data)` takes newer data and keeps the choices. */

const $ = (id) => document.getElementById(id);
const STEPS = 1000; // of the limit's slider
const state = { x: null, y: null, colour: "", picked: null, chosen: false, pinned: null, limited: null, limit: null, brush: false, hidden: new Set() };
let model = null;

let shown = ""; // of the picks
const say = (text) => { $("said").textContent = text; };
const pickedPoint = () => model.points.get(state.picked);

// ---- drawing
// no double click, which would swallow the second of two quick clicks on two points
const config = { displaylogo: false, doubleClickDelay: 0, modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] };

const draw = () => {
  const { data, layout } = figure(model, state, palette());
  Plotly.react("plot", data, layout, config);
  $("note").textContent = caveats(model, state).join(" ");
};

/** A function that waits until it was not called for some milliseconds. */
const settled = (wait, act) => {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(act, wait); };
};
const drawSoon = settled(80, draw);

/** The marks alone, behind the next frame, so that the panel is on the screen first: a pick moves no point. */
const placeMarks = settled(0, () =>
  Plotly.relayout("plot", marks(model, state, palette(), scaleOf(model, state.x), scaleOf(model, state.y))));
const drawMarks = () => requestAnimationFrame(placeMarks);

const showPicked = () => {
  const pinned = model.points.get(state.pinned);
  const picks = pinned ? [pinned, pickedPoint()] : [pickedPoint()];
  const now = JSON.stringify(picks.map((point) => [point.id, place(model, point), point.marks, [...model.columns.keys()].map((name) => [name, value(point, name)]), point.run.samples.texts[point.key]]));
  if (now !== shown) showPicks(model, picks, say);
  shown = now;
  const front = alongX(model.front);
  const at = front.indexOf(pickedPoint());
  $("previous").disabled = at === 0 || !front.length;
  $("next").disabled = at === front.length - 1;
  $("compare").setAttribute("aria-pressed", String(Boolean(pinned)));
  $("compare").textContent = pinned ? "End comparison" : "Compare";
  document.querySelectorAll("#marks button").forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.id === state.picked)));
  document.dispatchEvent(new CustomEvent("paretoprune:pick", { detail: { key: pickedPoint().key, run: pickedPoint().runPlace } }));
};

/** Points of the plot from left to right. */
const alongX = (points) => points
  .filter((point) => visible(model, state, point.series) && drawn(model, point, state.x) !== null && drawn(model, point, state.y) !== null)
  .sort((a, b) => drawn(model, a, state.x) - drawn(model, b, state.x));

// ---- choices
const pick = (id, compare = false) => {
  if (!model.points.has(id)) return;
  if (compare && !state.pinned) state.pinned = state.picked;
  state.picked = id;
  state.chosen = true;
  showPicked();
  const point = pickedPoint();
  say(`${place(model, point)}: ${point.key}. ${[state.y, state.x].map((name) => {
    const column = model.columns.get(name);
    return `${named(column)} ${written(value(point, name), column)}`;
  }).join(", ")}.`);
  drawMarks();
};

const compare = (on) => {
  state.pinned = on ? state.picked : null;
  showPicked();
  drawMarks();
  say(on ? "A is pinned. Choose B: click a point, or go along the front with the arrow keys." : "");
};

/** The next of some points, to the right or to the left. */
const step = (by, points) => {
  const at = points.indexOf(pickedPoint());
  const target = points[at < 0 ? (by > 0 ? 0 : points.length - 1) : at + by];
  if (target) pick(target.id);
};

// ---- the limit: a number field, a slider and a brush that say the same
const candidates = (name) => model.front.map((point) => drawn(model, point, name)).filter((number) => number !== null);

const slide = (name) => {
  const { goal, log } = model.columns.get(name);
  const [low, high] = reach(candidates(name));
  const bent = log && low > 0;
  const [from, to] = goal === "max" ? [high, low] : [low, high]; // to the right it is looser
  return {
    value: (at) => (bent ? from * (to / from) ** (at / STEPS) : from + (to - from) * (at / STEPS)),
    at: (number) => Math.round(STEPS * Math.min(1, Math.max(0, to === from ? 1 : bent ? Math.log(number / from) / Math.log(to / from) : (number - from) / (to - from)))),
  };
};

const showLimit = () => {
  const column = model.columns.get(state.limited);
  $("relation").textContent = column.goal === "max" ? "≥" : "≤";
  $("limit-unit").textContent = column.unit;
  $("limit-slider").value = state.limit ? slide(state.limited).at(state.limit.value) : STEPS;
  $("limit-slider").setAttribute("aria-valuetext", state.limit ? `${written(state.limit.value, column)} ${column.unit}` : "no limit");
  if (document.activeElement !== $("limit-number")) $("limit-number").value = state.limit ? Number(state.limit.value.toPrecision(6)) : "";
  $("clear").disabled = !state.limit;
  const best = bestPick(model, state);
  const chip = $("marks").querySelector('[data-mark="best"]');
  chip.disabled = !best;
  chip.dataset.id = best ? best.id : "";
  $("best").className = state.limit ? "" : "hint";
  if (!state.limit) {
    $("best").textContent = "Set a limit to have the best point under it marked.";
  } else if (best) {
    const by = judgedBy(model, state);
    const inside = model.front.filter((point) => keepsTo(model, point, state.limit)).length;
    $("best").textContent = `Best of ${inside}: ${best.key}, ${by.goal === "max" ? "highest" : "lowest"} ${named(by)}.`;
  } else {
    const reached = candidates(state.limited);
    const nearest = reached.length ? reach(reached)[column.goal === "max" ? 1 : 0] : null;
    $("best").textContent = `No point of the front keeps to this; the nearest has ${written(nearest, column)} ${column.unit}.`;
  }
};

/** Other axes; without a limit, the next one is across. */
const turn = (x, y) => {
  Object.assign(state, { x, y });
  if (!state.limit) { state.limited = x; $("limited").value = x; }
  showAxes();
  showLimit();
  showPicked();
  draw();
};

const limit = (number) => {
  const faded = fades(state);
  state.limit = number === null || !Number.isFinite(number) ? null : { name: state.limited, value: number };
  const best = bestPick(model, state);
  showLimit();
  if (best && best.id !== state.picked) pick(best.id);
  if (faded || fades(state)) drawSoon();
  else drawMarks();
};

// ---- pictures to keep
const save = (format) => {
  document.documentElement.classList.add("light");
  const { data, layout } = figure(model, state, palette());
  document.documentElement.classList.remove("light");
  const name = `front-${model.title.replace(/[^\w.-]+/g, "-")}`.slice(0, 80);
  const title = { text: escaped(model.title), x: 0.02, xanchor: "left" };
  const legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
  Plotly.downloadImage({ data, layout: { ...layout, title, legend, showlegend: true, margin: { ...layout.margin, t: 84 } } },
    { format, filename: name, width: 960, height: 640, scale: format === "png" ? 2 : 1 });
};

// ---- the data
/** Shows data, as `front_figure_data` of search/views/page/plot.py makes them; choices that still have a meaning stay. */
const show = (data) => {
  const begins = !model;
  const opened = begins || (state.x === model.axes[0].x && state.y === model.axes[0].y);
  model = readModel(data);
  $("chart").parentElement.hidden = false;
  const known = (name) => model.columns.has(name);
  if (opened || !known(state.x)) state.x = data.axes[0].x; // the end of a search has better ones to open with
  if (opened || !known(state.y)) state.y = data.axes[0].y;
  if (opened && !state.limit) state.limited = state.x;
  if (!known(state.colour)) state.colour = "";
  if (!known(state.limited)) state.limited = state.x;
  if (state.limit && !known(state.limit.name)) state.limit = null;
  if (!state.chosen || !model.points.has(state.picked)) state.picked = `0 ${data.selected}`;
  if (!model.points.has(state.pinned)) state.pinned = null;
  const others = model.series.filter((series) => !series.run && ["dominated", "uniform"].includes(series.role))
    .reduce((sum, series) => sum + series.points.length, 0);
  $("title").textContent = data.title;
  $("units").textContent = data.units;
  $("subtitle").textContent = `${model.front.length} points on the front, ${others} other candidates · ${data.runs[0].run_dir}`;
  $("advice").replaceChildren(data.advice, ...data.trade.map(([key, words]) => {
    const button = make("button", { type: "button", textContent: words });
    button.addEventListener("click", () => pick(`0 ${key}`));
    return button;
  }));
  const { mark, series, axes } = document.activeElement.dataset;
  showLists();
  if (mark) $("marks").querySelector(`[data-mark="${CSS.escape(mark)}"]`)?.focus();
  if (axes) $("axes").querySelector(`[data-axes="${CSS.escape(axes)}"]`)?.focus();
  if (series) $("legend").querySelector(`[data-series="${CSS.escape(series)}"]`)?.focus();
  showLimit();
  showPicked();
  draw();
  if (begins) wire();
};

// ---- wiring
const wire = () => {
  $("x-axis").addEventListener("change", (event) => turn(event.target.value, state.y));
  $("y-axis").addEventListener("change", (event) => turn(state.x, event.target.value));
  $("colour").addEventListener("change", (event) => { state.colour = event.target.value; showScale(); draw(); });
  $("limited").addEventListener("change", (event) => { state.limited = event.target.value; $("limit-number").value = ""; limit(null); });
  $("limit-number").addEventListener("input", (event) => limit(event.target.value.trim() === "" ? null : event.target.valueAsNumber));
  $("limit-slider").addEventListener("input", (event) => limit(slide(state.limited).value(Number(event.target.value))));
  $("clear").addEventListener("click", () => { $("limit-number").value = ""; limit(null); });
  $("brush").addEventListener("click", () => {
    state.brush = !state.brush;
    $("brush").setAttribute("aria-pressed", String(state.brush));
    draw();
  });
  $("previous").addEventListener("click", () => step(-1, alongX(model.front)));
  $("next").addEventListener("click", () => step(1, alongX(model.front)));
  $("compare").addEventListener("click", () => compare(!state.pinned));
  $("save-png").addEventListener("click", () => save("png"));
  $("save-svg").addEventListener("click", () => save("svg"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (event.key === "Escape" && state.pinned) compare(false);
    if (event.key === "ArrowLeft") step(-1, alongX(model.front));
    if (event.key === "ArrowRight") step(1, alongX(model.front));
    if (event.target !== $("plot") || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    step(event.key === "ArrowUp" ? 1 : -1, alongX([...model.points.values()]));
  });
  $("plot").on("plotly_click", ({ points: [point], event }) => { if (point?.customdata) pick(point.customdata, event.shiftKey); });
  $("plot").on("plotly_selected", (event) => {
    if (!event?.range) return;
    if (state.limited !== state.y) { state.limited = state.x; $("limited").value = state.x; }
    const ends = event.range[state.limited === state.y ? "y" : "x"];
    limit(model.columns.get(state.limited).goal === "max" ? Math.min(...ends) : Math.max(...ends));
    Plotly.relayout("plot", { selections: [] });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showLists(); draw(); });
  new ResizeObserver(() => {
    if (!document.documentElement.classList.contains("print")) Plotly.Plots.resize("plot");
  }).observe($("plot"));
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("light", "print");
    draw();
    Plotly.relayout("plot", { width: 680, height: 400 });
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("light", "print");
    Plotly.relayout("plot", { width: null, height: null, autosize: true }).then(draw);
  });
};

const first = JSON.parse($("data").textContent); // null where a live page has none yet
$("chart").parentElement.hidden = !first;
if (first) show(first);
window.paretoprune = { show };
