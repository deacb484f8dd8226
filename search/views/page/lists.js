/* Lists, chips and the legend, which follow the data and the user's choices in `front.js`. */

const fillSelect = (select, chosen, none) => {
  const names = [...(none ? [""] : []), ...model.columns.keys()];
  if (names.join() === [...select.options].map((option) => option.value).join()) { // newer data leave an open list open
    select.value = chosen;
    return;
  }
  const groups = new Map();
  model.columns.forEach((column) => {
    if (!groups.has(column.group)) groups.set(column.group, make("optgroup", { label: column.group }));
    groups.get(column.group).append(make("option", { value: column.name, textContent: named(column) }));
  });
  select.replaceChildren(...(none ? [make("option", { value: "", textContent: none })] : []), ...groups.values());
  select.value = chosen;
};

const swatch = (series) => {
  const { symbol, colour } = look(series, palette());
  const drawing = svgNode("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true", class: "symbol" });
  const paths = { diamond: "M0-6L5 0 0 6-5 0Z", x: "M-4-4L4 4M4-4L-4 4", "square-open": "M-4-4H4V4H-4Z", square: "M-4.5-4.5H4.5V4.5H-4.5Z",
    "triangle-up": "M0-5L5 4H-5Z", "triangle-down": "M0 5L5-4H-5Z", pentagon: "M0-5L5-1 3 5H-3L-5-1Z", hexagon: "M5 0L2.5 4.5H-2.5L-5 0-2.5-4.5H2.5Z" };
  const open = symbol === "x" || symbol.endsWith("open");
  const line = open ? { fill: "none", stroke: colour, "stroke-width": 2 } : { fill: colour };
  drawing.append(symbol === "circle" ? svgNode("circle", { r: 5, ...line }) : svgNode("path", { d: paths[symbol], ...line }));
  return drawing;
};

const showLists = () => {
  fillSelect($("x-axis"), state.x);
  fillSelect($("y-axis"), state.y);
  fillSelect($("colour"), state.colour, "by kind");
  fillSelect($("limited"), state.limited);
  const chip = (mark, point) => {
    const button = make("button", { type: "button", textContent: mark, disabled: !point });
    Object.assign(button.dataset, { mark, id: point ? point.id : "" });
    button.addEventListener("click", (event) => pick(button.dataset.id, event.shiftKey));
    return button;
  };
  const named = model.front.filter((point) => point.marks.length);
  $("marks").replaceChildren(...named.map((point) => chip(point.marks.join(", "), point)), chip("best", null), chip("dense", model.dense[0]));
  $("legend").replaceChildren(...[...model.series].reverse().filter((series) => series.role !== "dense" || !series.run || series.keys[0] !== model.dense[0].key)
    .map((series) => {
      const button = make("button", { type: "button" }, swatch(series), series.role === "dense" ? series.label : `${series.label} (${series.points.length})`);
      button.dataset.series = series.label;
      button.setAttribute("aria-pressed", String(!state.hidden.has(series.label)));
      button.addEventListener("click", () => {
        if (!state.hidden.delete(series.label)) state.hidden.add(series.label);
        button.setAttribute("aria-pressed", String(!state.hidden.has(series.label)));
        drawSoon();
      });
      return button;
    }));
  $("axes").replaceChildren(...(model.axes.length > 1 ? model.axes : []).map(({ name, x, y }) => {
    const button = make("button", { type: "button", textContent: name });
    Object.assign(button.dataset, { axes: name, x, y });
    button.addEventListener("click", () => turn(x, y));
    return button;
  }));
  showAxes();
  showScale();
};

/** Which axes are chosen, in the lists and on the buttons. */
const showAxes = () => {
  $("x-axis").value = state.x;
  $("y-axis").value = state.y;
  document.querySelectorAll("#axes button").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.x === state.x && button.dataset.y === state.y)));
};

const showScale = () => {
  $("scale").classList.toggle("none", !state.colour);
  if (!state.colour) return;
  const { column, low, high } = scaleOf(model, state.colour);
  $("scale-low").textContent = written(low, column);
  $("scale-high").textContent = written(high, column);
};
