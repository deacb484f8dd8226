/* The plot: what plotly.js draws of the model and of the user's choices. */

const RUNS = [["triangle-up", "dash"], ["square", "dashdot"], ["pentagon", "longdash"], ["triangle-down", "dot"], ["hexagon", "longdashdot"]];
const RING = "M10,0C10,5.52 5.52,10 0,10C-5.52,10 -10,5.52 -10,0C-10,-5.52 -5.52,-10 0,-10C5.52,-10 10,-5.52 10,0Z"; // in pixels
const MANY = 1500; // points that WebGL draws better than SVG
const TOO_NEAR_ZERO = 1e-6; // for a log axis
const WEBGL = Boolean(document.createElement("canvas").getContext("webgl"));

const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** The page's colours, as its style sheet has them now. */
const palette = () => {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "scale", "page", "card", "line", "grid", "accent", "dense", "dominated", ...RUNS.map((_, at) => `run-${at + 1}`)];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
};

/** How a series is drawn, in the plot and in the legend. */
const look = (series, colours) => {
  if (series.role === "dense") return { symbol: "diamond", size: 14, colour: series.run ? colours.soft : colours.dense };
  if (series.role === "dominated") return { symbol: "x", size: 5.5, colour: colours.dominated, opacity: 0.6 };
  if (series.role === "uniform") return { symbol: "square-open", size: 8, colour: colours.ink, dash: "dot" };
  if (!series.run) return { symbol: "circle", size: 10, colour: colours.accent, dash: "solid" };
  const at = (series.run - 1) % RUNS.length;
  return { symbol: RUNS[at][0], size: 9, colour: colours[`run-${at + 1}`], dash: RUNS[at][1] };
};

/** Colours as a function of a place in 0 to 1. */
const blend = (colours) => {
  const stops = colours.split(",").map((colour) => [1, 3, 5].map((at) => parseInt(colour.trim().slice(at, at + 2), 16)));
  return (part) => {
    const at = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return `rgb(${stops[low].map((one, channel) => Math.round(one + (at - low) * (stops[low + 1][channel] - one))).join(",")})`;
  };
};

/** A column's way from numbers to places: its log floor, half of the least value of pruned designs, as dense KL is 0 or nearly. */
const scaleOf = (model, name) => {
  const column = model.columns.get(name);
  const numbers = [];
  let least = Infinity;
  model.points.forEach((point) => {
    const number = drawn(model, point, name);
    if (number === null) return;
    numbers.push(number);
    if (point.role !== "dense" && number > TOO_NEAR_ZERO) least = Math.min(least, number);
  });
  const log = column.log && least < Infinity;
  const at = (number) => (log ? Math.max(number, least / 2) : number);
  const [low, high] = numbers.length ? reach(numbers.map(at)) : [0, 1];
  const pad = log ? 1.22 : (high - low || Math.abs(high) || 1) * 0.05;
  const range = log ? [Math.log10(low / pad), Math.log10(high * pad)] : [low - pad, high + pad * (column.goal === "max" ? 2.4 : 1)]; // names of landmarks stand there
  return { column, log, at, low, high, range, floor: log ? least / 2 : null };
};

const ticks = ({ log, low, high }) => {
  if (!log) return {};
  const decades = Math.log10(high / low);
  const digits = decades > 4 ? [1] : decades > 1.3 ? [1, 2, 5] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
  const values = [];
  for (let power = -7; power < 8; power += 1) digits.forEach((digit) => values.push(Number(`${digit}e${power}`)));
  return { type: "log", tickvals: values, ticktext: values.map((number) => (number >= 1e-3 ? String(number) : number.toExponential())) };
};

const hover = (model, state, point) => {
  const names = [...new Set([state.x, state.y, state.colour, "heldout_ppl", "latency_ms", "params", "decoder_params_removed"])]
    .filter((name) => name && model.columns.has(name) && value(point, name) !== null);
  const marks = point.marks.length ? ` · ${point.marks.join(", ")}` : "";
  return [`<b>${escaped(point.key)}</b>${marks}`, escaped(place(model, point)), ...names.map((name) => {
    const column = model.columns.get(name);
    return `${escaped(column.label)}: <b>${written(value(point, name), column)}</b> ${escaped(column.unit)}`;
  })].join("<br>");
};

/** Whether a series is in the plot: not switched off, and no second picture of the same dense model. */
const visible = (model, state, series) =>
  !state.hidden.has(series.label) && !(series.role === "dense" && series.run && series.keys[0] === model.dense[0].key);

/** Whether the limit is on an axis; then the plot's side beyond it is washed out, else the points beyond it are. */
const onAxis = (state) => state.limit.name === state.x || state.limit.name === state.y;
const fades = (state) => Boolean(state.limit) && !onAxis(state);

/** Traces and layout. The marks of picks and limits are apart, in `marks`, as they change more often. */
const figure = (model, state, colours) => {
  const [x, y] = [scaleOf(model, state.x), scaleOf(model, state.y)];
  const colour = state.colour && scaleOf(model, state.colour);
  const shade = blend(colours.scale);
  const part = (number) => (colour.log ? Math.log(colour.at(number) / colour.low) / Math.log(colour.high / colour.low)
    : (number - colour.low) / (colour.high - colour.low || 1));
  const data = [];
  model.series.filter((series) => visible(model, state, series)).forEach((series) => {
    const points = series.points.filter((point) => drawn(model, point, state.x) !== null && drawn(model, point, state.y) !== null);
    const { symbol, size, colour: plain, dash, opacity = 1 } = look(series, colours);
    const place = (chosen) => ({ x: chosen.map((point) => x.at(drawn(model, point, state.x))), y: chosen.map((point) => y.at(drawn(model, point, state.y))) });
    if (dash) {
      data.push({ ...place(staircase(model, points, state.x, state.y)), type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { color: plain, width: 1.6, shape: "hv", dash }, opacity: 0.5 });
    }
    const fill = (point) => {
      const number = value(point, state.colour);
      return number === null ? colours.dominated : shade(part(number));
    };
    data.push({ ...place(points), type: points.length > MANY && WEBGL ? "scattergl" : "scatter", mode: "markers", name: escaped(series.label),
      customdata: points.map((point) => point.id), hovertext: points.map((point) => hover(model, state, point)), hoverinfo: "text",
      cliponaxis: points.length > MANY,
      marker: { symbol, size, color: colour && series.role !== "dense" ? points.map(fill) : plain,
        opacity: fades(state) ? points.map((point) => (point.role === "dense" || keepsTo(model, point, state.limit) ? opacity : 0.22 * opacity)) : opacity,
        line: symbol === "x" || symbol.endsWith("open") ? {} : { color: colour ? colours.soft : colours.card, width: 1 } },
      selected: { marker: {} }, unselected: { marker: {} } });
  });
  const { fontFamily: family } = getComputedStyle(document.body);
  const axis = { gridcolor: colours.grid, linecolor: colours.line, zerolinecolor: colours.dominated, ticks: "outside", tickcolor: colours.line,
    tickfont: { color: colours.soft }, automargin: true };
  const brushed = state.limit?.name === state.y || (!state.limit && state.limited === state.y);
  const layout = {
    uirevision: `${state.x} ${state.y}`, showlegend: false,
    font: { family, size: 12.5, color: colours.ink },
    paper_bgcolor: colours.card, plot_bgcolor: colours.card, margin: { l: 62, r: x.column.goal === "max" ? 40 : 16, t: 26, b: 52 },
    xaxis: { ...axis, ...ticks(x), range: x.range, title: { text: escaped(named(x.column)), standoff: 10 } },
    yaxis: { ...axis, ...ticks(y), range: y.range, title: { text: escaped(named(y.column)), standoff: 8 } },
    dragmode: state.brush ? "select" : matchMedia("(pointer: coarse)").matches ? false : "zoom", selectdirection: brushed ? "v" : "h",
    hovermode: "closest", hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, align: "left", font: { color: colours.ink, size: 12, family } },
    ...marks(model, state, colours, x, y),
  };
  return { data, layout };
};

/** The side of the plot on which points are better. */
const better = ({ column }) => (column.goal === "max" ? "right" : "left");

/** Rings about the picks, names of landmarks, and the limit: shapes and annotations, which plotly.js redraws alone. */
const marks = (model, state, colours, x, y) => {
  const [shapes, annotations] = [[], []];
  const stands = (point) => (point && drawn(model, point, state.x) !== null && drawn(model, point, state.y) !== null
    ? [x.at(drawn(model, point, state.x)), y.at(drawn(model, point, state.y))] : null);
  const says = (point, text, more) => {
    const [across, up] = stands(point);
    annotations.push({ x: x.log ? Math.log10(across) : across, y: y.log ? Math.log10(up) : up, text, showarrow: false, font: { size: 12 }, borderpad: 1,
      bgcolor: `${colours.card}b0`, ...more });
  };
  const { limit } = state;
  if (limit && onAxis(state)) {
    const across = limit.name === state.x;
    const scale = across ? x : y;
    const at = scale.at(limit.value);
    const off = scale.log ? 1e6 : 1e3 * (scale.high - scale.low);
    const far = scale.column.goal === "max" ? (scale.log ? scale.low / off : scale.low - off) : scale.log ? scale.high * off : scale.high + off;
    const span = (from, to) => (across ? { xref: "x", x0: from, x1: to, yref: "paper", y0: 0, y1: 1 } : { yref: "y", y0: from, y1: to, xref: "paper", x0: 0, x1: 1 });
    shapes.push({ type: "rect", ...span(at, far), fillcolor: colours.page, opacity: 0.72, line: { width: 0 } },
      { type: "line", ...span(at, at), line: { color: colours.ink, width: 1.3, dash: "dash" } });
    const sign = scale.column.goal === "max" ? "≥" : "≤";
    const inside = scale.column.goal === "max"; // where the words stand: on the side that keeps to the limit
    annotations.push({ text: `${sign} ${Number(limit.value.toPrecision(4))} ${escaped(scale.column.unit)}`, showarrow: false, font: { size: 12 },
      bgcolor: `${colours.card}b0`, [across ? "x" : "y"]: scale.log ? Math.log10(at) : at, [across ? "xref" : "yref"]: across ? "x" : "y",
      ...(across ? { y: 1, yref: "paper", yanchor: "top", xanchor: inside ? "left" : "right", xshift: inside ? 3 : -3 }
        : { x: 1, xref: "paper", xanchor: "right", yanchor: inside ? "bottom" : "top" }) });
  }
  const ownFront = model.series.find((series) => series.role === "front" && !series.run);
  if (ownFront && visible(model, state, ownFront)) {
    const landmarks = model.front.filter((point) => point.marks.length && stands(point)).sort((a, b) => stands(b)[1] - stands(a)[1]); // from the top
    const part = (scale, at) => ((scale.log ? Math.log10(at) : at) - scale.range[0]) / (scale.range[1] - scale.range[0]);
    const parts = landmarks.map((point) => stands(point).map((at, index) => part(index ? y : x, at)));
    landmarks.forEach((point, index) => {
      const above = landmarks.slice(0, index).filter((other, at) => Math.abs(parts[at][0] - parts[index][0]) < 0.09 && parts[at][1] - parts[index][1] < 0.03);
      const lines = above.reduce((sum, other) => sum + other.marks.length, 0);
      const side = better(x); // where no other point of the front stands
      const end = side === "left" ? "right" : "left";
      says(point, point.marks.join("<br>"), { align: end, xanchor: end, yanchor: "top", xshift: side === "left" ? -4 : 4, yshift: -5 - 16 * lines });
    });
  }
  if (stands(model.dense[0]) && !state.hidden.has(model.dense[0].series.label)) says(model.dense[0], "dense", { yanchor: "bottom", yshift: 9 });
  const best = bestPick(model, state);
  if (stands(best)) {
    says(best, "<b>best</b>", { showarrow: true, arrowhead: 0, arrowwidth: 1.3, arrowcolor: colours.ink, standoff: 11, ax: better(x) === "left" ? 40 : -40, ay: -34,
      bgcolor: colours.card, bordercolor: colours.ink, borderpad: 3 });
  }
  const picks = [[state.pinned, "A", "dot"], [state.picked, state.pinned ? "B" : "", "solid"]];
  picks.map(([id, letter, dash]) => [model.points.get(id), letter, dash]).filter(([point]) => stands(point)).forEach(([point, letter, dash]) => {
    const [across, up] = stands(point);
    shapes.push({ type: "path", path: RING, xref: "x", yref: "y", xsizemode: "pixel", ysizemode: "pixel", xanchor: across, yanchor: up,
      line: { color: colours.ink, width: 2.2, dash } });
    if (letter) says(point, `<b>${letter}</b>`, { font: { size: 14 }, xshift: 17, yshift: 12 });
  });
  return { shapes, annotations };
};

/** What a reader of the plot has to know of what it cannot show, in sentences. */
const caveats = (model, state) => {
  const scale = scaleOf(model, state.y);
  const said = [`${scale.column.goal === "max" ? "Higher" : "Lower"} and further ${better(scaleOf(model, state.x))} is better.`];
  const lowest = drawn(model, model.dense[0], state.y);
  if (scale.floor !== null && lowest !== null && lowest < scale.floor) {
    said.push("The dense model stands at the lower edge: its value is too near 0 for a log axis.");
  }
  const others = [...model.points.values()].filter((point) => visible(model, state, point.series));
  const unseen = others.filter((point) => drawn(model, point, state.x) === null || drawn(model, point, state.y) === null).length;
  if (unseen) {
    const all = model.axes.at(-1);
    const where = state.x === all.x && state.y === all.y ? "" : `; they are under “${all.name}”`;
    said.push(`${unseen} points are not shown: these columns are measured of the front alone${where}.`);
  }
  const untuned = (name) => others.some((point) => value(point, name) === null && drawn(model, point, name) !== null);
  if (untuned(state.x) || untuned(state.y)) {
    said.push("Only members of the front are tuned: all others stand where they were before tuning.");
  }
  model.runs.forEach((run) => run.notes.forEach((note) => said.push(`${run.name}: ${note}.`)));
  return said;
};
