// A sweep's runs as lines over its settings (parallel coordinates), each axis from its lowest value to its highest.

import { colour, isNumber } from "./format.js";

const Plotly = window.Plotly;
const config = { displayModeBar: false, responsive: true };
const chart = JSON.parse(document.querySelector("#chart").textContent);
const plot = document.querySelector("#parallel");

// Where each value stands on its axis, 0 to 1, and what is written there.
function axisOf(label, values, log = false, choices = null) {
  if (choices) {
    const last = Math.max(1, choices.length - 1);
    return { label, place: (value) => choices.indexOf(value) / last,
      ticks: choices.map((value, index) => [index / last, String(value)]) };
  }
  const scale = log ? Math.log10 : (value) => value;
  const low = Math.min(...values), high = Math.max(...values);
  const width = scale(high) - scale(low) || 1;
  const said = (value) => Number(value.toPrecision(3)).toString();
  return { label, place: (value) => (scale(value) - scale(low)) / width,
    ticks: low === high ? [[0, said(low)]] : [[0, said(low)], [1, said(high)]] };
}

function draw() {
  const axes = chart.settings.map((setting, index) => axisOf(setting.label,
    chart.runs.map((run) => run.values[index]).filter(isNumber), setting.log, setting.choices));
  axes.push(axisOf(chart.objective, chart.runs.map((run) => run.reached)));
  const ranked = chart.runs.slice().sort((a, b) => chart.maximize ? a.reached - b.reached : b.reached - a.reached);
  const ink = colour("ink"), xs = axes.map((_, index) => index);
  const traces = ranked.map((run, rank) => ({
    x: xs, y: [...run.values, run.reached].map((value, index) => axes[index].place(value)), mode: "lines+markers",
    opacity: ranked.length === 1 ? 1 : 0.12 + 0.88 * (rank / (ranked.length - 1)) ** 2, showlegend: false,
    line: { color: ink, width: rank === ranked.length - 1 ? 3 : 1.5, dash: run.early ? "dot" : "solid" },
    marker: { size: 5, color: ink },
    text: [...run.values, run.reached].map((value, index) => `${run.name}<br>${axes[index].label} ${value}`),
    hovertemplate: "%{text}<extra></extra>",
  }));
  const written = axes.flatMap((axis, index) => axis.ticks.map(([y, text]) => ({
    x: index, y, text, showarrow: false, xanchor: "left", xshift: 6, bgcolor: colour("surface"), opacity: .9,
    font: { size: 11, color: colour("ink-2") },
  })));
  Plotly.react(plot, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 24, r: 64, t: 12, b: 40 },
    hovermode: "closest", annotations: written,
    xaxis: { tickvals: xs, ticktext: axes.map((axis) => axis.label), fixedrange: true, gridcolor: colour("line-strong"),
      zeroline: false, tickfont: { size: 12, color: colour("ink-2") }, range: [-.1, xs.length - 1 + .25] },
    yaxis: { visible: false, range: [-.08, 1.08], fixedrange: true },
  }, config);
}

if (plot) {
  draw();
  document.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
