// An episode of a dataset: all cameras in step with every number that was observed and done. The address holds the
// step (?step=N).

import { askForFile } from "./exports.js";
import { Feeds } from "./feeds.js";
import { Player } from "./player.js";
import { Strip } from "./strip.js";
import { lab, page, toast } from "./app.js";
import { colour, isNumber, number, root, setText } from "./format.js";
import { config, layout } from "./plots.js";

const Plotly = window.Plotly;
const ACTORS = ["the policy", "a person", "a script"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const INKS = ["practising", "evaluating", "overridden", "needs", "stopped", "ink", "ink-3"];
const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const base = `${root}api/labs/${lab}/datasets/${page.dataset}/episodes/${page.position}`;
const last = Number(page.steps);
const strip = new Strip($("#strip"), { large: true });
strip.limit = last;
const feeds = new Feeds({ base, last, first: $("#feed") });
let steps = null, rate = 1;

// ---- signals: a plot a feature, and one cursor over all of them
const LEFT = 60, RIGHT = 12;    // pixels beside what is drawn
const MOST_NAMED = 8;           // lines that a legend has room for; of more the one that is pointed at is named
const plots = [];               // {plot, cursor}

function drawSignals() {
  const box = $("#signals");
  for (const { plot } of plots) Plotly.purge(plot);
  plots.length = 0;
  for (const old of box.querySelectorAll(".signal")) old.remove();
  for (const { key, names, units, values } of steps.signals) {
    if (!values.length) continue;
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    figure.className = "signal";
    caption.className = "small muted";
    const many = names.length > MOST_NAMED;
    caption.textContent = many ? `${key}: ${names.length} numbers; point at a line to see which it is` : key;
    const plot = document.createElement("div"), cursor = document.createElement("div");
    plot.className = "plot signal-plot";
    cursor.className = "cursor";
    figure.append(caption, plot, cursor);
    box.append(figure);
    const traces = values.map((series, i) => ({ x: series.map((_, step) => step), y: series, mode: "lines",
      name: units[i] ? `${names[i]} (${units[i]})` : names[i],
      line: { width: 1.5, color: colour(INKS[i % INKS.length]), dash: DASHES[Math.floor(i / INKS.length) % 4],
        shape: key === "action" ? "hv" : "linear" } }));
    Plotly.newPlot(plot, traces, layout("", "", { hovermode: many ? "closest" : "x unified",
      showlegend: names.length > 1 && !many, margin: { l: LEFT, r: RIGHT, t: 6, b: 24 },
      xaxis: { range: [0, last], automargin: false, fixedrange: true },
      yaxis: { automargin: false, fixedrange: true } }), config).then(() => startBelowLegend(figure, plot));
    plot.addEventListener("click", (event) => {
      const { left, width } = plot.getBoundingClientRect();
      const at = Math.round(last * (event.clientX - left - LEFT) / (width - LEFT - RIGHT));
      if (at >= 0 && at <= last) player.goTo(at);
    });
    plots.push({ plot, cursor });
  }
  moveCursors(player.at);
}

// What is paler over a plot, because a trim would cut it off, is only what is drawn.
function startBelowLegend(figure, plot) {
  const top = plot.querySelector(".nsewdrag").getBoundingClientRect().top - figure.getBoundingClientRect().top;
  figure.style.setProperty("--top", `${top}px`);
}

function moveCursors(step) {
  for (const { plot, cursor } of plots) {
    cursor.style.left = `${LEFT + (plot.clientWidth - LEFT - RIGHT) * step / last}px`;
  }
}

function show(step, passing) {
  $("#scrub").setAttribute("aria-valuetext", `step ${step} of ${last}`);
  setText($("#where"), `step ${step} of ${last}`);
  feeds.draw(step);
  moveCursors(step);
  if (steps) {
    const { actors, d, fps } = steps;
    setText(field("d"), number(d[step], 1));
    setText(field("actor"), step < actors.length ? ACTORS[actors[step]] : "–");
    setText(field("time"), `${(step / fps).toFixed(1)} s`);
  }
  if (!passing) history.replaceState(null, "", `?step=${step}`);
}

const player = new Player({ play: $("#play"), scrub: $("#scrub"), strip,
  perSecond: () => (steps?.fps || 5) * rate, show });
player.range(0, last);
player.listenRates((chosen) => { rate = chosen; });

// ---- trim marks, and the ways to the neighbours
const start = $("#id_start"), stop = $("#id_stop");
function mark(input, value) {
  if (!input) return;
  input.value = value;
  if (Number(start.value) >= Number(stop.value)) toast("It would begin after its end: nothing would be left.", "error");
  sayMarks();
}
function sayMarks() {
  if (!start) return;
  const share = (value) => String(Math.min(1, Math.max(0, Number(value) / last)));
  $("#signals").style.setProperty("--from", share(start.value));
  $("#signals").style.setProperty("--to", share(stop.value));
}
const begin = () => mark(start, Math.min(player.at, last - 1));
const end = () => mark(stop, Math.max(player.at, 1));
$("#mark-start")?.addEventListener("click", begin);
$("#mark-stop")?.addEventListener("click", end);
for (const input of [start, stop]) input?.addEventListener("input", sayMarks);
sayMarks();
const follow = (selector) => () => $(selector)?.click();
player.listenKeys({ p: follow("#before"), n: follow("#after"), ...(start ? { i: begin, o: end } : {}) });

// ---- downloads
$("#make-exports")?.addEventListener("click", (event) => {
  const { kind, camera } = event.target.closest("button")?.dataset ?? {};
  if (kind) askForFile(page.dataset, { kind, camera: camera ?? "", position: Number(page.position) });
});
function offerVideos(cameras) {
  for (const camera of $("#make-exports") ? cameras : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.kind = "mp4";
    button.dataset.camera = camera;
    button.textContent = `MP4 of ${camera}`;
    $("#make-exports").append(button);
  }
}

const asked = Number(new URLSearchParams(location.search).get("step"));
player.move(Number.isInteger(asked) ? asked : 0, true);
feeds.open(() => player.at).then(offerVideos);
try {
  const answer = await fetch(`${base}/steps`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  steps = body;
  strip.setTrace(steps.d, { threshold: steps.threshold, limit: last, actors: steps.actors.map((each) => each === 1) });
  setText($("#d-note"), steps.d.some(isNumber) ? "" : "d was not predicted: no reward model was loaded");
  player.listEvents($("#events"), (step) => `Step ${step}`);
  $("#signals-note").hidden = true;
  drawSignals();
  player.move(player.at, true);
} catch (error) { setText($("#signals-note"), `They could not be read: ${error.message}`); }
document.addEventListener("themechange", () => { if (steps) drawSignals(); });
window.addEventListener("resize", () => requestAnimationFrame(() => moveCursors(player.at)));
