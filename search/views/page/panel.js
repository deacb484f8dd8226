/* The panel: what was picked, its numbers against the dense model's, its command, and its picture. */

const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

const small = (text) => make("span", { className: "unit", textContent: text });

/** Copies text; where a page from a file gets no clipboard, by the old way, from the node that shows it. */
const copyText = async (node) => {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
};

/** Who a pick is, and how it is exported. */
const pickHead = (model, point, letter, say) => {
  const code = make("code", { textContent: point.run.command + point.key });
  const button = make("button", { type: "button", className: "copy", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy the export command of ${letter || "this point"}`);
  button.addEventListener("click", async () => {
    await copyText(code);
    button.textContent = "Copied";
    say("Export command copied.");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  const eyebrow = make("p", { className: "eyebrow" }, ...(letter ? [make("b", { className: "letter", textContent: letter })] : []), place(model, point));
  const badges = point.marks.map((mark) => make("span", { className: "badge", textContent: mark }));
  return make("div", { className: "pick" }, eyebrow, make("h2", {}, make("span", { textContent: point.key }), ...badges),
    make("div", { className: "command" }, code, button));
};

/** The numbers of one pick or two, each beside its ratio to the dense model of its run. */
const metricTable = (model, picks) => {
  const heads = picks.length > 1 ? ["", "A", "× dense", "B", "× dense"] : ["", "This", "× dense", "Dense"];
  const table = make("table", { className: picks.length > 1 ? "two" : "one" },
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { textContent: head, scope: "col" })))));
  const shown = [...model.columns.values()].filter((column) => ![...model.columns.values()].some((other) => other.spread === column.name));
  let group = "";
  shown.forEach((column) => {
    const its = (point) => {
      const cell = make("td", { textContent: written(value(point, column.name), column) });
      const spread = column.spread && value(point, column.spread);
      if (spread) cell.append(make("span", { className: "spread", textContent: ` ± ${written(spread, column)}` }));
      return cell;
    };
    const ratio = (point) => {
      const [mine, base] = [value(point, column.name), model.dense[point.runPlace] && value(model.dense[point.runPlace], column.name)];
      const known = mine !== null && base && Math.abs(base) > TOO_NEAR_ZERO && !column.relative;
      return make("td", { className: "ratio", textContent: known ? (mine / base).toFixed(3) : "" });
    };
    const head = make("th", { textContent: column.label, scope: "row" }, ...(column.unit ? [small(` ${column.unit}`)] : []));
    const cells = picks.flatMap((point) => [its(point), ratio(point)]);
    const row = make("tr", { className: column.group === group ? "" : "first" }, head, ...cells);
    if (picks.length === 1) row.append(make("td", { className: "dense", textContent: written(value(model.dense[picks[0].runPlace], column.name), column) }));
    group = column.group;
    if (!table.tBodies.length) table.append(make("tbody"));
    table.tBodies[0].append(row);
  });
  return table;
};

/** What the dense model writes and, below it, what the picks do, prompt by prompt; nothing where none of them was asked. */
const samplesOf = (model, picks) => {
  const writers = [...picks.map((point, at) => [picks.length > 1 ? "AB"[at] : "This", point]), ["Dense", model.dense[picks[0].runPlace]]];
  const { prompts } = picks[0].run.samples;
  const told = writers.filter(([, point]) => point?.run === picks[0].run && point.run.samples.texts[point.key]);
  if (!told.some(([, point]) => picks.includes(point))) return [];
  const once = told.filter(([, point], at) => told.findIndex(([, other]) => other === point) === at);
  return [make("h3", { textContent: "What it writes" }), ...prompts.flatMap((prompt, at) => [
    make("p", { className: "prompt", textContent: `${prompt} …` }),
    make("dl", {}, ...once.flatMap(([name, point]) => [make("dt", { textContent: name }), make("dd", { textContent: point.run.samples.texts[point.key][at] })])),
  ])];
};

/** Everything about one pick, or about two side by side. */
const showPicks = (model, picks, say) => {
  const two = picks.length > 1;
  const layers = picks.map((point) => layersOf(model, point));
  document.getElementById("picks").replaceChildren(...picks.map((point, at) => pickHead(model, point, two ? "AB"[at] : "", say)));
  document.getElementById("metrics").replaceChildren(metricTable(model, picks));
  document.getElementById("samples").replaceChildren(...samplesOf(model, picks));
  const named = { units: model.units, types: model.types, expert: model.expert };
  const pictures = picks.map((point, at) => picture(layers[at], layersOf(model, model.dense[point.runPlace]), named, two ? layers[1 - at] : null));
  document.getElementById("picture").replaceChildren(...pictures);
  const differing = two ? layers[0].filter((layer, at) => !sameShape(layer, layers[1][at])).length : 0;
  document.getElementById("differing").textContent = two ? `A is left, B right; ${differing} of ${layers[0].length} layers differ, tinted.`
    : "Units stand in the order of their importance: a subnet keeps the first ones of each layer.";
};
