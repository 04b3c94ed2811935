// An episode, step by step. The address holds the step (?step=N), so a moment can be sent to somebody.

import { Strip } from "./strip.js";
import { lab, page, toast, typing } from "./app.js";
import { addToDataset, label } from "./control.js";
import { isNumber, number, percent, setText } from "./format.js";

const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const base = `/api/labs/${lab}/episodes/${page.episode}`;
const feed = $("#feed"), canvas = feed.querySelector("canvas"), scrub = $("#scrub"), play = $("#play");
const strip = new Strip($("#strip"), { large: true });
const last = Number(page.steps);
strip.limit = last;
const AHEAD = 12;
const pictures = new Map();     // step -> promise of a bitmap
let steps = null, step = 0, rate = 1, timer = null, wanted = 0;

const ACTORS = ["policy", "human", "script"];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// The first ask starts a job that renders the episode; until then the server answers 202.
function picture(at) {
  if (pictures.has(at)) return pictures.get(at);
  const load = (async () => {
    for (let attempt = 0; attempt < 120; attempt++) {
      const answer = await fetch(`${base}/frames/${at}.jpg`);
      if (answer.status === 200) return createImageBitmap(await answer.blob());
      if (answer.status !== 202) {
        const body = await answer.json().catch(() => ({}));
        throw new Error(body.detail || `The server answered ${answer.status} for this picture.`);
      }
      await pause(attempt < 5 ? 300 : 1000);
    }
    throw new Error("The pictures of this episode were not rendered within two minutes. Is the worker running?");
  })();
  load.catch(() => pictures.delete(at));
  pictures.set(at, load);
  if (pictures.size > 400) pictures.delete(pictures.keys().next().value);
  return load;
}

async function drawPicture() {
  const mine = ++wanted, at = step;
  try {
    const bitmap = await picture(at);
    if (mine !== wanted) return;
    canvas.width = bitmap.width; canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    feed.classList.add("has-frame");
    feed.dataset.step = at;
    for (let ahead = 1; ahead <= AHEAD; ahead++) if (at + ahead <= last) picture(at + ahead).catch(() => {});
  } catch (error) {
    if (mine === wanted) { setText(feed.querySelector(".note"), error.message); feed.classList.remove("has-frame"); }
  }
}

const valueAt = (values, at) => Array.isArray(values) ? values[at] : undefined;

function show(at, { remember = true } = {}) {
  step = Math.max(0, Math.min(last, at));
  scrub.value = step;
  scrub.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  setText($("#where"), `step ${step} of ${last}`);
  strip.setCursor(step);
  drawPicture();
  if (steps) {
    const d = valueAt(steps.d, step), action = valueAt(steps.actions, step), actor = valueAt(steps.actors, step);
    setText(field("d"), number(d, 1));
    setText(field("reward"), isNumber(valueAt(steps.reward, step)) ? steps.reward[step].toFixed(2) : "–");
    setText(field("actor"), actor === undefined ? "–" : typeof actor === "number" ? ACTORS[actor] : actor);
    setText(field("action"), action ? action.map((value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3)).join(" ") : "–");
    field("action").title = action ? `${(steps.embodiment?.action_names ?? []).join(", ")} (metres)` : "";
    setText(field("time"), `${(step / (steps.control_hz || 5)).toFixed(1)} s`);
    const start = valueAt(steps.d, 0);
    setText(field("progress"), isNumber(d) && start > 0 ? percent(Math.max(0, 1 - d / start)) : "–");
  }
  if (remember) history.replaceState(null, "", `?step=${step}`);
}

function stop() {
  clearInterval(timer);
  timer = null;
  play.setAttribute("aria-label", "Play");
  play.querySelector("use").setAttribute("href", "#i-play");
  show(step);
}

function start() {
  if (step >= last) show(0);
  play.setAttribute("aria-label", "Pause");
  play.querySelector("use").setAttribute("href", "#i-pause");
  clearInterval(timer);
  timer = setInterval(() => { if (step >= last) stop(); else show(step + 1, { remember: false }); }, 1000 / ((steps?.control_hz || 5) * rate));
}

const toggle = () => { if (timer) stop(); else start(); };
const goTo = (at) => { if (timer) stop(); show(at); };

play.addEventListener("click", toggle);
scrub.addEventListener("input", () => goTo(Number(scrub.value)));
for (const button of document.querySelectorAll("[data-rate]")) button.addEventListener("click", () => {
  rate = Number(button.dataset.rate);
  for (const each of document.querySelectorAll("[data-rate]")) each.setAttribute("aria-pressed", String(each === button));
  if (timer) start();
});
strip.canvas.addEventListener("pointerdown", (event) => {
  strip.canvas.setPointerCapture(event.pointerId);
  goTo(strip.stepAt(event.clientX));
});
strip.canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) goTo(strip.stepAt(event.clientX)); });

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event) && event.target !== scrub) return;
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key === " ") { event.preventDefault(); toggle(); }
  else if (event.key in moves) { event.preventDefault(); goTo(step + moves[event.key] * (event.shiftKey ? 10 : 1)); }
  else if (event.key === "Home" || event.key === "End") { event.preventDefault(); goTo(event.key === "Home" ? 0 : last); }
  else if (event.key === "m") {
    const moments = strip.moments().map((each) => each.step).sort((a, b) => a - b);
    if (moments.length) goTo(moments.find((each) => each > step) ?? moments[0]);
  }
});

// ---- what a person says of it
const labels = [...document.querySelectorAll("[data-label]")];
function mark(value) {
  label(page.episode, value, "This episode", (now) => {
    setText(field("true"), now === null ? "unknown" : now ? "yes" : "no");
    for (const button of labels) button.setAttribute("aria-pressed", String(button.dataset.label === String(now)));
  });
}
for (const button of labels) button.addEventListener("click", () => mark(button.dataset.label === "true"));
document.addEventListener("keydown", (event) => {
  if (!labels.length || typing(event) || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.key === "s" || event.key === "f") mark(event.key === "s");
});
$("#add-correction")?.addEventListener("click", (event) => addToDataset(page.episode, event.currentTarget));

function listMoments() {
  const moments = strip.moments();
  if (!moments.length) return;
  $("#moments").replaceChildren(...moments.sort((a, b) => a.step - b.step).map(({ step: at, rise }) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Step ${at}: d rose by ${rise.toFixed(1)}`;
    button.addEventListener("click", () => goTo(at));
    row.append(button);
    return row;
  }));
}

const asked = Number(new URLSearchParams(location.search).get("step"));
show(Number.isInteger(asked) ? asked : 0, { remember: false });
try {
  const answer = await fetch(`${base}/steps`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  steps = body;
  strip.setTrace(steps.d, { threshold: steps.threshold, limit: last, actors: (steps.actors ?? []).map((actor) => actor === "human" || actor === 1) });
  listMoments();
  show(step, { remember: false });
} catch (error) { toast(`The steps of this episode could not be read: ${error.message}`, "error"); }
