/* Heat maps of a plan: layers across, modules down, drawn by Plotly and updated in place. */
"use strict";

(() => {
  let loading = null;
  /** Load Plotly once, from this server, when the first chart is needed. */
  Studio.plotly = () => (loading ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/static/plotly.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { loading = null; reject(new Error("plotly")); };
    document.head.append(script);
  }));

  const PALETTES = {
    bits: { light: ["#cfeee8", "#8fd8ca", "#43b3a1", "#0d8173", "#06463f"], dark: ["#12352f", "#17594f", "#1f8576", "#4cc0ad", "#b5efe3"] },
    ranks: { light: ["#edf2fd", "#b9cdf9", "#7fa3f3", "#3b6cf0", "#1c3fb0", "#14245c"], dark: ["#18213a", "#243f7d", "#2f5bc4", "#5b8bf5", "#9dbcff", "#e2ebff"] },
  };
  const BITS = [2, 3, 4, 8, 16];
  const colours = (kind) => PALETTES[kind][Studio.isDark() ? "dark" : "light"];
  Studio.colours = colours;

  /** Five bands of one colour each for bits, a smooth scale for ranks. */
  function scale(kind) {
    const list = colours(kind);
    if (kind !== "bits") return list.map((c, i) => [i / (list.length - 1), c]);
    return list.flatMap((c, i) => [[i / list.length, c], [(i + 1) / list.length, c]]);
  }
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  function wrap(text, width = 46) {
    const lines = [""];
    const parts = /[\u4e00-\u9fff]/.test(text) ? Array.from(text) : text.split(/(?<= )/);
    for (const part of parts) {
      const long = Array.from(lines[lines.length - 1] + part).reduce((n, c) => n + (c > "\u2e80" ? 2 : 1), 0);
      if (long > width) lines.push(""); 
      lines[lines.length - 1] += part;
    }
    return lines.map((l) => safe(l.trimEnd())).join("<br>");
  }
  const transposed = (rows) => rows.length ? rows[0].map((_, c) => rows.map((r) => r[c])) : [];

  Studio.plotLayout = (extra = {}) => {
    const dark = Studio.isDark();
    const ink = dark ? "#a8b3ca" : "#52607a", line = dark ? "#263149" : "#e7ecf4";
    const axis = { gridcolor: line, linecolor: line, zeroline: false, tickfont: { size: 11.5 }, automargin: true, fixedrange: false };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "keep", showlegend: false,
      font: { family: getComputedStyle(document.querySelector(".gradio-container")).fontFamily, color: ink, size: 12 }, margin: { l: 44, r: 8, t: 6, b: 34 },
      hoverlabel: { bgcolor: dark ? "#0c1120" : "#ffffff", bordercolor: dark ? "#64718c" : "#8b97ad", align: "left",
        font: { color: dark ? "#e8ecf5" : "#1a2233", size: 12.5 } },
      ...extra, xaxis: { ...axis, ...(extra.xaxis || {}) }, yaxis: { ...axis, ...(extra.yaxis || {}) } };
  };
  Studio.plotConfig = { displayModeBar: false, responsive: false, displaylogo: false, doubleClick: "reset", showTips: false };

  /** Keep a chart as wide as its card, also when it was hidden while the window changed. */
  Studio.fit = (node) => {
    if (node.studioFit) return;
    node.studioFit = new ResizeObserver(() => { if (node.data && node.offsetWidth) window.Plotly.Plots.resize(node); });
    node.studioFit.observe(node);
  };

  /** Draw or update one map. `kind` is bits or ranks; `grid` is charts.plan_grid, `values` rows x columns. */
  Studio.heat = async (node, kind, grid, values) => {
    const Plotly = await Studio.plotly();
    const cells = transposed(values), names = transposed(grid.names), whys = transposed(grid.why);
    const z = kind === "bits" ? cells.map((r) => r.map((v) => (v === null ? null : BITS.indexOf(v)))) : cells;
    const top = kind === "bits" ? 4.5 : Math.max(4, ...cells.flat().filter((v) => v !== null), ...grid.ranks.flat().filter((v) => v !== null));
    const text = cells.map((row, m) => row.map((v, l) => v === null ? "" :
      `<b>${safe(names[m][l])}</b><br>${Studio.say(kind === "bits" ? "cell_bits" : "cell_rank", { n: v })}<br>${wrap(whys[m][l] || "")}`));
    const trace = { type: "heatmap", x: grid.layers.map((l) => (l < 0 ? "–" : String(l))), y: grid.modules, z, text, hovertemplate: "%{text}<extra></extra>",
      zmin: kind === "bits" ? -0.5 : 0, zmax: top, colorscale: scale(kind), showscale: false, xgap: 2, ygap: 2, hoverongaps: false };
    const layout = Studio.plotLayout({ margin: { l: 76, r: 6, t: 4, b: 36 },
      xaxis: { title: { text: Studio.say("layer"), standoff: 6, font: { size: 12 } }, type: "category", showgrid: false, nticks: 16, tickangle: 0 },
      yaxis: { autorange: "reversed", showgrid: false, type: "category" } });
    await Plotly.react(node, [trace], layout, Studio.plotConfig);
    Studio.fit(node);
  };

  /** The colour key of a map, beside its title. */
  Studio.heatLegend = (node, kind, grid, values) => {
    const list = colours(kind);
    const seen = values.flat().filter((v) => v !== null);
    const entries = kind === "bits"
      ? BITS.map((b, i) => [list[i], Studio.say("cell_bits", { n: b }), seen.includes(b)]).filter((e) => e[2])
      : [[list[0], "0", true], [list[list.length - 1], String(Math.max(4, ...seen)), true]];
    node.replaceChildren(...entries.map(([colour, label]) => {
      const swatch = Studio.element("i");
      swatch.style.background = colour;
      return Studio.element("span", {}, swatch, label);
    }));
  };
})();
