/* What the dashboard adds: newer data as they come, curves of the search, and the pick for its buttons. */

const curve = (lines, yaxis, unit = " tokens") => {
  const colours = palette();
  const names = Object.keys(lines ?? {});
  const shades = [colours.accent, colours.dense, colours["run-1"], colours["run-2"], colours["run-3"], colours["run-4"]];
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const axis = { gridcolor: colours.grid, linecolor: colours.line, zeroline: false, tickfont: { color: colours.soft, size: 10.5 }, automargin: true, fixedrange: true };
  return {
    data: names.map((name, at) => ({ x: lines[name].map(([tokens]) => tokens), y: lines[name].map(([, number]) => number), name: escaped(name),
      type: "scatter", mode: lines[name].length > 1 ? "lines" : "markers",
      line: { color: shades[at % shades.length], width: 1.8, dash: dashes[at % dashes.length] } })),
    layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: colours.ink }, paper_bgcolor: colours.card, plot_bgcolor: colours.card,
      margin: { l: 40, r: 16, t: 6, b: 30 },
      xaxis: { ...axis, visible: names.length > 0, rangemode: "tozero", ticksuffix: names.length ? unit : "", nticks: 4, tickformat: "~s" }, yaxis: { ...axis, visible: names.length > 0, nticks: 5, ...yaxis },
      showlegend: names.length > 0, legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { size: 10.5 } },
      hovermode: "x", hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink } },
      annotations: names.length ? [] : [{ text: "nothing yet", x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false, font: { color: colours.soft } }],
    },
  };
};

window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {
  paretoprune: {
    /** Fetches the figure of a new version. */
    draw: async (version) => {
      const answer = version ? await fetch("figure.json") : null;
      const data = answer?.ok ? await answer.json() : null;
      if (data) {
        show(data);
        document.title = `${data.title} – paretoprune`;
      }
      return version ?? null;
    },
    volumes: (curves) => curve(curves?.volumes, {}),
    taus: (curves) => curve(curves?.taus, { range: [-0.25, 1.05] }),
    rates: (curves) => curve(curves?.rates, { rangemode: "tozero" }, " s"),
    load: (curves) => curve(curves?.load, { rangemode: "tozero" }, " s"),
    picked: (key) => key ?? "no point chosen",
  },
});

let told = null; // the pick
document.addEventListener("paretoprune:pick", ({ detail: { key, run } }) => {
  const pick = run ? null : key;
  if (pick !== told) window.dash_clientside.set_props("pick", { data: pick });
  told = pick;
});
