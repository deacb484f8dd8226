/* The page's data as points that know their run, role and landmarks. */

const ROLES = { front: "front", uniform: "uniform designs", dominated: "other candidates", dense: "dense model" };

/** Reads what `front_figure_data` of search/views/page/plot.py wrote. */
const readModel = (data) => {
  const columns = new Map(data.columns.map((column) => [column.name, column]));
  const model = { ...data, columns, points: new Map(), dense: [], front: [] };
  model.series = data.series.filter((one) => one.keys.length).map((one) => {
    const run = data.runs[one.run];
    const label = one.run ? `${ROLES[one.role]} of ${run.name}` : ROLES[one.role];
    const series = { ...one, label, points: [] };
    one.keys.forEach((key, row) => {
      const marks = one.run ? [] : Object.keys(data.marks).filter((mark) => data.marks[mark] === key);
      const point = { id: `${one.run} ${key}`, key, row, run, runPlace: one.run, role: one.role, marks, series };
      series.points.push(point);
      model.points.set(point.id, point);
    });
    if (one.role === "dense") [model.dense[one.run]] = series.points;
    if (one.role === "front" && !one.run) model.front = series.points;
    return series;
  });
  return model;
};

const value = (point, name) => point.series.values[name]?.[point.row] ?? null;

/** What an axis shows of a point: of a design that was not tuned, the value that tuned ones had before. */
const drawn = (model, point, name) => {
  const number = value(point, name);
  const { before } = model.columns.get(name);
  return number === null && before ? value(point, before) : number;
};

const layersOf = (model, point) => [...point.series.layers[point.row]].map((letter) => model.shapes[letter]);

/** Where a point stands, in words. */
const place = (model, point) => {
  if (point.role === "dense") return point.runPlace ? `The dense model of ${point.run.name}` : "The dense model";
  if (point.role === "front") {
    const of = point.runPlace ? ` of ${point.run.name}` : "";
    return `Point ${point.row + 1} of ${point.series.points.length} on the front${of}`;
  }
  return point.role === "uniform" ? "Equal layers, off the front" : "Off the front";
};

/** Whether a point keeps to a limit; one without a value does not. */
const keepsTo = (model, point, limit) => {
  const number = drawn(model, point, limit.name);
  return number !== null && gain(number, limit.value, model.columns.get(limit.name)) >= 0;
};

/** The column by which the best point under a limit is chosen: the upright axis, or the other one when that is limited. */
const judgedBy = (model, state) => model.columns.get(state.limit.name === state.y ? state.x : state.y);

/** The best point of this run's front that keeps to the limit, or null. */
const bestPick = (model, state) => {
  if (!state.limit) return null;
  const column = judgedBy(model, state);
  return model.front.filter((point) => keepsTo(model, point, state.limit) && drawn(model, point, column.name) !== null)
    .reduce((best, point) => (best && gain(drawn(model, point, column.name), drawn(model, best, column.name), column) <= 0
      ? best : point), null);
};

/** The points of a series that no other of it beats on two columns, by the first one: the line through them. */
const staircase = (model, points, x, y) => {
  const [across, up] = [model.columns.get(x), model.columns.get(y)];
  const shown = points.filter((point) => drawn(model, point, x) !== null && drawn(model, point, y) !== null)
    .sort((a, b) => gain(drawn(model, b, x), drawn(model, a, x), across) || gain(drawn(model, b, y), drawn(model, a, y), up));
  const line = [];
  for (const point of shown) {
    if (!line.length || gain(drawn(model, point, y), drawn(model, line.at(-1), y), up) > 0) line.push(point);
  }
  return line;
};
