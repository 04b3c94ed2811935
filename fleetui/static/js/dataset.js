// A version of a dataset: episodes are chosen and edited together, thumbnails come as they are scrolled to, plots.

import "./exports.js";
import { askUntilMade } from "./feeds.js";
import { lab, page, typing } from "./app.js";
import { colour, root, setText } from "./format.js";
import { config, layout } from "./plots.js";

const Plotly = window.Plotly;
const $ = (selector) => document.querySelector(selector);
const base = `${root}api/labs/${lab}/datasets/${page.dataset}`;

// ---- choosing
const boxes = [...document.querySelectorAll('#rows [name="positions"]')];
const everything = $("#everything");

function sayChosen() {
  const count = boxes.filter((box) => box.checked).length;
  for (const box of boxes) box.closest("tr, li").classList.toggle("chosen", box.checked);
  setText($("#chosen"), everything?.checked ? "all of them" : `${count} chosen`);
}
document.querySelector("#edits")?.addEventListener("change", sayChosen);
if (boxes.length) sayChosen();

// With Shift from the last one that was clicked to this one.
let before = null;
for (const box of boxes) box.addEventListener("click", (event) => {
  const [from, to] = [boxes.indexOf(before), boxes.indexOf(box)].sort((a, b) => a - b);
  if (event.shiftKey && from >= 0) for (const each of boxes.slice(from, to + 1)) each.checked = box.checked;
  before = box;
  sayChosen();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const box = event.target.closest("#rows tr, #rows li")?.querySelector('[name="positions"]');
  if (typing(event) && !(event.target === box)) return;
  if (event.key === "x" && box) { box.checked = !box.checked; sayChosen(); }
  if (event.key === "a" && boxes.length) {
    const all = boxes.every((each) => each.checked);
    for (const each of boxes) each.checked = !all;
    sayChosen();
  }
});

// ---- moving thumbnails: each strip is asked for when it comes into sight
async function loadStrip(tile) {
  const note = tile.querySelector(".note");
  setText(note, "being made …");
  try {
    const answer = await askUntilMade(`${base}/episodes/${tile.dataset.position}/strip.jpg`, "the picture");
    tile.querySelector(".moment").style.backgroundImage = `url("${URL.createObjectURL(await answer.blob())}")`;
    tile.classList.add("has-strip");
    setText(note, "");
  } catch (error) { setText(note, error.message); }
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    seen.unobserve(entry.target);
    loadStrip(entry.target);
  }
}, { rootMargin: "200px" });
for (const tile of document.querySelectorAll("[data-position].moving")) seen.observe(tile);

// ---- statistics
function bars(id, { edges, counts }, x) {
  const trace = { type: "bar", x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2), y: counts,
    width: counts.map((_, i) => edges[i + 1] - edges[i]), marker: { color: colour("ink-2"), line: { width: 0 } },
    hovertemplate: "%{customdata}: %{y}<extra></extra>",
    customdata: counts.map((_, i) => `${round(edges[i])} to ${round(edges[i + 1])}`) };
  Plotly.react($(id), [trace], layout(x, "", { showlegend: false, bargap: 0.05, yaxis: { rangemode: "tozero" } }),
    config);
}
const round = (value) => Number.isInteger(value) ? String(value) : value.toPrecision(3);

let statistics = null;
function drawPlots() {
  const lengths = JSON.parse($("#lengths").textContent);
  if (lengths.counts.length) bars("#plot-lengths", lengths, "steps");
  if (statistics?.actions.counts.length) bars("#plot-actions", statistics.actions, "root mean square of an action");
}

function listNumbers() {
  $("#numbers").replaceChildren(...statistics.features.map((each) => {
    const row = document.createElement("tr");
    const name = `${each.key} · ${each.name}${each.unit ? ` (${each.unit})` : ""}`;
    [name, each.min, each.max, each.mean, each.std].forEach((value, i) => {
      const cell = document.createElement("td");
      if (i) cell.className = "number";
      cell.textContent = i ? Number(value.toPrecision(4)) : value;
      row.append(cell);
    });
    return row;
  }));
  $("#numbers-wrap").hidden = false;
  $("#numbers-note").hidden = true;
}

async function readStatistics() {
  drawPlots();
  try {
    statistics = await (await askUntilMade(`${base}/statistics`, "the sums")).json();
    listNumbers();
    drawPlots();
  } catch (error) { setText($("#numbers-note"), error.message); }
}
// Only who scrolls there needs them: the first time they are a job of the server.
if ($("#statistics")) {
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    readStatistics();
  }, { rootMargin: "300px" });
  near.observe($("#statistics"));
  document.addEventListener("themechange", drawPlots);
}
