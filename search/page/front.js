"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, points } = data;
  const byName = Object.fromEntries(columns.map((column, index) => [column.name, { ...column, index }]));
  const value = (point, name) => (name in byName ? point.values[byName[name].index] : null);
  const dense = points.find((point) => point.role === "dense");
  const front = points.filter((point) => point.role === "front");
  const dominated = points.filter((point) => point.role === "dominated");
  const state = { x: data.x[0], y: data.y[0], point: points.find((point) => point.key === data.selected) };
  const $ = (id) => document.getElementById(id);
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // ---- numbers as people read them
  const scaled = (number, base, suffixes) => {
    let step = 0;
    while (Math.abs(number) >= base && step < suffixes.length - 1) { number /= base; step += 1; }
    return number.toFixed(step && number < 100 ? 1 : 0) + suffixes[step];
  };
  const write = (number, kind) => {
    if (number === null) return "–";
    if (kind === "count") return scaled(number, 1000, ["", " k", " M", " G", " T"]);
    if (kind === "bytes") return scaled(number, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
    if (kind === "percent") return `${(100 * number).toFixed(1)} %`;
    const size = Math.abs(number);
    if (size >= 1000) return scaled(number, 1000, ["", " k", " M", " G"]);
    if (kind === "fine") return size > 0 && size < 0.0005 ? number.toExponential(1) : number.toFixed(4);
    return size >= 100 ? number.toFixed(1) : number.toFixed(2);
  };
  const named = (column) => column.label + (column.unit ? ` (${column.unit})` : "");

  // ---- the plot
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** The least value that the log axis shows, half the least of the pruned points: the dense model's KL is 0 or nearly so. */
  const floor = () => {
    const seen = [...front, ...dominated].map((point) => value(point, state.y)).filter((number) => number > 1e-6);
    return seen.length ? seen.reduce((least, number) => Math.min(least, number)) / 2 : 1e-6;
  };

  const hover = (point) => {
    const role = { front: "on the front", dominated: "off the front", dense: "dense model" }[point.role];
    const head = `<b>${escaped(point.key)}</b>  ${[role, ...point.marks].join(", ")}`;
    const lines = columns.filter((column) => value(point, column.name) !== null)
      .map((column) => `${escaped(column.label)}: <b>${write(value(point, column.name), column.kind)}</b> ${escaped(column.unit)}`);
    return [head, ...lines].join("<br>");
  };

  const trace = (chosen, y, extra) => {
    const shown = chosen.filter((point) => value(point, state.x) !== null && value(point, state.y) !== null);
    return {
      mode: "markers", hoverinfo: "text", ...extra,
      type: shown.length > 1500 ? "scattergl" : "scatter",
      x: shown.map((point) => value(point, state.x)),
      y: shown.map(y),
      customdata: shown.map((point) => point.key),
      hovertext: shown.map(hover),
    };
  };

  /** The points that no other beats on the two axes shown, for the line; none when an axis is not to be minimised. */
  const staircase = () => {
    if (byName[state.x].goal === "max" || byName[state.y].goal === "max") return [];
    const shown = [...front].filter((point) => value(point, state.x) !== null && value(point, state.y) !== null)
      .sort((a, b) => value(a, state.x) - value(b, state.x) || value(a, state.y) - value(b, state.y));
    let best = Infinity;
    return shown.filter((point) => value(point, state.y) < best && ((best = value(point, state.y)), true));
  };

  const ticks = (low, high) => {
    const decades = Math.log10(high / low);
    const digits = decades > 4 ? [1] : decades > 1.3 ? [1, 2, 5] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    const values = [];
    for (let power = -7; power < 8; power += 1) digits.forEach((digit) => values.push(Number(`${digit}e${power}`)));
    return { tickvals: values, ticktext: values.map((number) => (number >= 1e-3 ? String(number) : number.toExponential())) };
  };

  const draw = () => {
    const colours = Object.fromEntries(
      ["ink", "soft", "card", "line", "grid", "accent", "dense", "dominated"].map((name) => [name, style(`--${name}`)]));
    const { fontFamily: family } = getComputedStyle(document.body);
    const least = floor();
    const y = (point) => Math.max(value(point, state.y), least);
    const line = { ...trace(staircase(), y, {}), type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false,
      line: { color: colours.accent, width: 1.5, shape: "hv" }, opacity: 0.45 };
    const traces = [
      trace(dominated, y, { name: "other candidates",
        marker: { symbol: "x", size: 5, color: colours.dominated, opacity: 0.5 } }),
      line,
      trace(front, y, { name: "front", cliponaxis: false,
        marker: { symbol: "circle", size: 10, color: colours.accent, line: { color: colours.card, width: 1.2 } } }),
      trace([dense], y, { name: "dense model", cliponaxis: false,
        marker: { symbol: "diamond", size: 14, color: colours.dense, line: { color: colours.card, width: 1.2 } } }),
      trace([state.point], y, { hoverinfo: "skip", showlegend: false, mode: "markers",
        marker: { symbol: "circle-open", size: 20, color: colours.ink, line: { color: colours.ink, width: 2.2 } } }),
    ];
    const numbers = traces.flatMap((one) => one.y);
    const [low, high] = numbers.reduce(([least, most], one) => [Math.min(least, one), Math.max(most, one)], [Infinity, -Infinity]);
    const annotations = [...front, dense].filter((point) => value(point, state.x) !== null && value(point, state.y) !== null)
      .map((point) => ({ x: value(point, state.x), y: Math.log10(y(point)), showarrow: false, font: { size: 12 },
        ...(point === dense ? { text: "dense", yanchor: "bottom", yshift: 10 }
          : { text: point.marks.join("<br>"), align: "right", xanchor: "right", yanchor: "top", xshift: 6, yshift: -10 }) }));
    const range = [Math.log10(low / 1.25), Math.log10(high * 1.25)];
    const axis = { gridcolor: colours.grid, linecolor: colours.line, zeroline: false, ticks: "outside", tickcolor: colours.line,
      tickfont: { color: colours.soft }, automargin: true };
    Plotly.react("plot", traces, {
      uirevision: `${state.x} ${state.y}`,
      font: { family, size: 12.5, color: colours.ink },
      paper_bgcolor: colours.card, plot_bgcolor: colours.card, margin: { l: 62, r: 14, t: 30, b: 52 },
      xaxis: { ...axis, title: { text: escaped(named(byName[state.x])), standoff: 10 } },
      yaxis: { ...axis, ...ticks(low, high), type: "log", range,
        title: { text: escaped(named(byName[state.y])), standoff: 8 } },
      legend: { orientation: "h", x: 0, y: 1.005, yanchor: "bottom", font: { color: colours.soft } },
      annotations, hovermode: "closest", hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, align: "left",
        font: { color: colours.ink, size: 12, family } },
    }, { responsive: true, displaylogo: false,
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] });
    const clipped = value(dense, state.y) !== null && value(dense, state.y) < least;
    const unseen = dominated.filter((point) => value(point, state.y) === null).length;
    $("note").textContent = [
      clipped ? "The dense model stands at the lower edge: its value is too near 0 for a log axis." : "",
      unseen ? `Points off the front are not shown (${unseen}): the run measures this of the front alone.` : "",
    ].join(" ").trim();
  };

  // ---- the chosen point
  const element = (name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, content]) => node.setAttribute(key, content));
    node.textContent = text;
    return node;
  };

  const picture = (layers) => {
    const [denseQuery, denseGroups] = dense.layers.reduce((most, layer) => [Math.max(most[0], layer[0]), Math.max(most[1], layer[1])], [1, 1]);
    const denseChannels = Math.max(1, ...dense.layers.map((layer) => layer[2]));
    const pitch = Math.min(18, Math.max(11, 400 / layers.length));
    const [tall, top, left, right] = [pitch - 3.4, 16, 22, 262];
    const [attentionWide, mlpWide] = [176, 146];
    const svg = element("svg", { viewBox: `0 0 440 ${top + pitch * layers.length + 2}`, role: "img",
      "aria-label": "Query heads and MLP channels kept in each layer" });
    const pattern = element("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
    pattern.append(element("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "hatch" }));
    svg.append(pattern);
    const box = (parent, kind, x, y, width) =>
      parent.append(element("rect", { class: kind, x, y, width: Math.max(width, 0.4), height: tall, rx: Math.min(1.6, width / 4) }));
    const hole = (parent, x, y, width, text) => {
      box(parent, "hole absent", x, y, width);
      parent.append(element("text", { class: "label", x: x + width / 2, y: y + tall / 2 + 2.7, "text-anchor": "middle" }, text));
    };
    svg.append(element("text", { class: "title", x: left, y: 9 }, "Attention"), element("text", { class: "title", x: right, y: 9 }, "MLP"));
    svg.append(element("text", { x: left + attentionWide + 5, y: 9 }, "Q / KV"));
    layers.forEach(([query, groups, channels], index) => {
      const y = top + index * pitch;
      const row = element("g");
      row.append(element("title", {}, `Layer ${index}: ${query} query heads in ${groups} KV groups, ${channels} MLP channels`));
      row.append(element("text", { x: left - 6, y: y + tall / 2 + 3, "text-anchor": "end" }, String(index)));
      if (!query && !channels) {
        hole(row, left, y, right + mlpWide - left, "layer removed");
        svg.append(row);
        return;
      }
      if (query) {
        const wide = attentionWide / denseGroups;
        const gap = Math.min(4, wide * 0.2);
        const perGroup = denseQuery / denseGroups;
        for (let group = 0; group < denseGroups; group += 1) {
          const x = left + group * wide;
          if (group >= groups) { box(row, "hole", x, y, wide - gap); continue; }
          box(row, "group", x, y, wide - gap);
          const cell = (wide - gap) / perGroup;
          const between = Math.min(1.2, cell * 0.15);
          for (let head = 0; head < perGroup; head += 1) {
            box(row, head < query / groups ? "attention" : "hole", x + head * cell + between / 2, y, cell - between);
          }
        }
        row.append(element("text", { x: left + attentionWide + 5, y: y + tall / 2 + 3 }, `${query} / ${groups}`));
      } else {
        hole(row, left, y, attentionWide - Math.min(4, (attentionWide / denseGroups) * 0.2), "no attention");
      }
      if (channels) {
        const kept = (mlpWide * channels) / denseChannels;
        box(row, "mlp", right, y, kept);
        if (channels < denseChannels) box(row, "hole", right + kept + 0.6, y, mlpWide - kept - 0.6);
        row.append(element("text", { x: right + mlpWide + 5, y: y + tall / 2 + 3 }, String(channels)));
      } else {
        hole(row, right, y, mlpWide, "no MLP");
      }
      svg.append(row);
    });
    return svg;
  };

  const cell = (tag, text, unit = "") => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (unit) {
      const small = document.createElement("span");
      small.className = "unit";
      small.textContent = ` ${unit}`;
      node.append(small);
    }
    return node;
  };

  const metricRow = (column) => {
    const [mine, its] = [value(state.point, column.name), value(dense, column.name)];
    const ratio = mine !== null && its && Math.abs(its) > 1e-6 && column.kind !== "percent" ? `${(mine / its).toFixed(3)} ×` : "";
    const row = document.createElement("tr");
    const head = cell("th", column.label, column.unit);
    head.scope = "row";
    row.append(head, cell("td", write(mine, column.kind)), cell("td", write(its, column.kind)), cell("td", ratio));
    return row;
  };

  const showPoint = () => {
    const { point } = state;
    const place = front.indexOf(point);
    $("place").textContent = point.role === "dense" ? "The dense model"
      : point.role === "front" ? `Point ${place + 1} of ${front.length} on the front` : "Off the front";
    $("key").textContent = point.key;
    $("badges").replaceChildren(...point.marks.map((mark) => {
      const badge = cell("span", mark);
      badge.className = "badge";
      return badge;
    }));
    $("metrics").replaceChildren(...columns.filter((column) => value(point, column.name) !== null).map(metricRow));
    $("command").textContent = data.command + point.key;
    $("picture").replaceChildren(picture(point.layers));
    $("previous").disabled = place === 0 || front.length === 0;
    $("next").disabled = place === front.length - 1;
    document.querySelectorAll("#marks button").forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.key === point.key)));
  };

  const select = (key) => {
    state.point = points.find((point) => point.key === key) ?? state.point;
    showPoint();
    draw();
  };
  const step = (by) => {
    const place = front.indexOf(state.point);
    const target = front[place < 0 ? (by > 0 ? 0 : front.length - 1) : place + by];
    if (target) select(target.key);
  };

  const copy = async () => {
    const text = $("command").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // no clipboard for a page from a file in some browsers: the old way
      const range = document.createRange();
      range.selectNodeContents($("command"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    $("copy").textContent = "Copied";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  };

  // ---- wiring
  $("title").textContent = data.title;
  $("subtitle").textContent = `${front.length} points on the front, ${dominated.length} other candidates · ${data.run_dir}`;
  [["x-axis", data.x, "x"], ["y-axis", data.y, "y"]].forEach(([id, names, field]) => {
    $(id).append(...names.map((name) => {
      const option = cell("option", byName[name].label);
      option.value = name;
      return option;
    }));
    $(id).addEventListener("change", (event) => { state[field] = event.target.value; draw(); });
  });
  $("marks").append(...[...front.filter((point) => point.marks.length), dense].map((point) => {
    const chip = cell("button", point.role === "dense" ? "dense" : point.marks.join(", "));
    chip.type = "button";
    chip.dataset.key = point.key;
    chip.addEventListener("click", () => select(point.key));
    return chip;
  }));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("copy").addEventListener("click", copy);
  document.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  showPoint();
  draw();
  $("plot").on("plotly_click", (event) => select(event.points[0].customdata));
})();
