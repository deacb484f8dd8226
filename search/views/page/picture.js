/* The layer-by-layer picture: query heads in their KV groups, MLP channels or experts, types of matrices, and holes. */

const svgNode = (name, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, content]) => node.setAttribute(key, content));
  node.textContent = text;
  return node;
};

/** Whether two layers are alike; numbers at the end of one that are not there are 0. */
const sameShape = (one, other) => one !== undefined && other !== undefined
  && [...(one.length > other.length ? one : other).keys()].every((place) => (one[place] ?? 0) === (other[place] ?? 0));

/**
 * A picture of a design's layers, each `[query heads, KV groups, MLP channels or experts, type of attention, type of MLP,
 * channels of each expert]`.
 *
 * @param layers Of the design.
 * @param dense Of the model that it was cut from.
 * @param named What MLPs keep, in words, the names of types of matrices by their numbers, and the channels of an expert of
 *   the dense model, or 0.
 * @param other Of the design beside it, or null; then the picture is narrow and layers that differ are tinted.
 */
const picture = (layers, dense, { units, types, expert }, other) => {
  const [denseQuery, denseGroups] = [0, 1].map((at) => Math.max(1, ...dense.map((layer) => layer[at])));
  const fewest = Math.min(...dense.map((layer) => layer[2])); // of a mixture; a plain MLP among such has more channels
  const pitch = Math.min(16, Math.max(9.5, 340 / layers.length));
  const [tall, top, left] = [pitch - 2.8, 15, 20];
  const typed = layers.some(([, , , ...chosen]) => chosen.some((number) => number > 0)); // or experts with fewer channels
  const [wide, attentionWide, right, mlpWide] = other ? [214, 106, 134, 78] : typed ? [500, 176, 288, 146] : [440, 176, 262, 146];
  const ofEach = (channels) => (channels ? ` × ${channels}` : "");
  const rounded = layers.some(([, , , ...chosen]) => chosen.slice(0, 2).some((number) => number > 0));
  const typeOf = (kept, number) => (rounded && kept ? ` ${types[number ?? 0]}` : "");
  const svg = svgNode("svg", { viewBox: `0 0 ${wide} ${top + pitch * layers.length + 2}`, role: "img" });
  const kept = layers.filter(([query, , channels]) => query || channels).length;
  svg.setAttribute("aria-label", `${kept} of ${layers.length} layers kept; query heads and ${units} of each`);
  const pattern = svgNode("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  pattern.append(svgNode("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "hatch" }));
  svg.append(pattern);
  const box = (parent, kind, x, y, width) =>
    parent.append(svgNode("rect", { class: kind, x, y, width: Math.max(width, 0.4), height: tall, rx: Math.min(1.6, width / 4) }));
  const text = (parent, x, y, words, attributes = {}) => parent.append(svgNode("text", { x, y: y + tall / 2 + 3, ...attributes }, words));
  const hole = (parent, x, y, width, words) => {
    box(parent, "hole absent", x, y, width);
    if (!other) text(parent, x + width / 2, y - 0.3, words, { class: "label", "text-anchor": "middle" });
  };
  svg.append(svgNode("text", { class: "title", x: left, y: 9 }, "Attention"), svgNode("text", { class: "title", x: right, y: 9 }, "MLP"));
  if (!other) svg.append(svgNode("text", { x: left + attentionWide + 5, y: 9 }, "Q / KV"));
  layers.forEach(([query, groups, channels, attentionType, mlpType, narrow = 0], index) => {
    const y = top + index * pitch;
    const denseChannels = dense[index][2];
    const own = denseChannels > fewest ? "MLP channels" : units;
    const row = svgNode("g");
    row.append(svgNode("title", {}, `Layer ${index}: ${query} query heads in ${groups} ${query > groups * (denseQuery / denseGroups) ? "merged " : ""}KV groups${typeOf(query, attentionType)}, ${channels} ${own}${narrow ? `, each of ${narrow} of ${expert} channels` : ""}${typeOf(channels, mlpType)}`));
    if (other && !sameShape(layers[index], other[index])) {
      row.append(svgNode("rect", { class: "differs", x: 0, y: y - 1.4, width: wide, height: pitch }));
    }
    text(row, left - 6, y, String(index), { "text-anchor": "end" });
    svg.append(row);
    if (!query && !channels) {
      hole(row, left, y, right + mlpWide - left, "layer removed");
      return;
    }
    // merged groups keep all query heads, and each is as wide as those that it was made of
    const merged = query / groups > denseQuery / denseGroups;
    const places = merged ? groups : denseGroups;
    const wideGroup = attentionWide / places;
    const gap = Math.min(4, (attentionWide / denseGroups) * 0.2);
    if (query) {
      const perGroup = merged ? query / groups : denseQuery / denseGroups;
      for (let group = 0; group < places; group += 1) {
        const x = left + group * wideGroup;
        if (group >= groups) { box(row, "hole", x, y, wideGroup - gap); continue; }
        box(row, "group", x, y, wideGroup - gap);
        const cell = (wideGroup - gap) / perGroup;
        const between = Math.min(1.2, cell * 0.15);
        for (let head = 0; head < perGroup; head += 1) {
          box(row, head < query / groups ? "attention" : "hole", x + head * cell + between / 2, y, cell - between);
        }
      }
      if (!other) text(row, left + attentionWide + 5, y, `${query} / ${groups}${typeOf(query, attentionType)}`);
    } else {
      hole(row, left, y, attentionWide - gap, "no attention");
    }
    if (channels) {
      const length = ((mlpWide * channels) / denseChannels) * (narrow ? narrow / expert : 1);
      box(row, "mlp", right, y, length);
      if (channels < denseChannels || narrow) box(row, "hole", right + length + 0.6, y, mlpWide - length - 0.6);
      if (!other) text(row, right + mlpWide + 5, y, `${channels}${ofEach(narrow)}${typeOf(channels, mlpType)}`);
    } else {
      hole(row, right, y, mlpWide, "no MLP");
    }
  });
  return svg;
};
