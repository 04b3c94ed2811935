// How a plot of Plotly looks on these pages.

import { colour } from "./format.js";

export function layout(x, y, extra = {}) {
  const ink = colour("ink-2"), line = colour("line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { size: 11 },
    title: { font: { size: 12 }, standoff: 8 }, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 12 },
    margin: { l: 48, r: 12, t: 8, b: 40 }, hovermode: "closest", showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
    hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line-strong"), font: { color: colour("ink") } },
    xaxis: { ...axis, ...xaxis, title: { ...axis.title, text: x } },
    yaxis: { ...axis, ...yaxis, title: { ...axis.title, text: y } }, ...rest };
}
export const config = { displayModeBar: false, responsive: true };
