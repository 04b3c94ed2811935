// An episode, step by step. The address holds the step (?step=N), so a step can be sent to somebody.

import { Player } from "./player.js";
import { Strip } from "./strip.js";
import { lab, page, toast, typing } from "./app.js";
import { addToDataset, label, LABELS } from "./control.js";
import { isNumber, number, percent, root, setText } from "./format.js";

const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const base = `${root}api/labs/${lab}/episodes/${page.episode}`;
const feed = $("#feed"), scrub = $("#scrub");
const strip = new Strip($("#strip"), { large: true });
const last = Number(page.steps);
strip.limit = last;
const AHEAD = 12;
const KEPT = 400;
const pictures = new Map();     // camera's name and step -> promise of a bitmap
let steps = null, rate = 1, wanted = 0;

const ACTORS = ["policy", "human", "script"];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function refusal(answer, what) {
  const body = await answer.json().catch(() => ({}));
  return new Error(body.detail || `The server answered ${answer.status} for ${what}.`);
}

// The first ask starts a job that makes the episode's pictures; until then the server answers 202.
async function readCameras() {
  for (let attempt = 0; attempt < 120; attempt++) {
    const answer = await fetch(`${base}/cameras`);
    if (answer.status === 200) return (await answer.json()).cameras;
    if (answer.status !== 202) throw await refusal(answer, "its cameras");
    await pause(attempt < 5 ? 300 : 1000);
  }
  throw new Error("The pictures of this episode were not made within two minutes. Is the worker running?");
}

// A feed for each camera. What they are called comes from a robot's program: text, never HTML.
function makeFeeds(cameras) {
  $("#feeds").dataset.cameras = cameras.length;
  const elements = cameras.map((_, i) => i === 0 ? feed : feed.cloneNode(true));
  return cameras.map(({ name, missing }, i) => {
    const element = elements[i];
    if (i > 0) { element.removeAttribute("id"); $("#feeds").append(element); }
    if (name) element.querySelector("canvas").setAttribute("aria-label", `Camera ${name} at the chosen step`);
    element.dataset.camera = name;
    if (missing) setText(element.querySelector(".note"), missing);
    if (cameras.length > 1) {
      const which = document.createElement("span");
      which.className = "which";
      which.textContent = name;
      element.append(which);
    }
    return { element, name, missing };
  });
}

function picture(name, at) {
  const key = JSON.stringify([name, at]);
  if (pictures.has(key)) return pictures.get(key);
  const load = (async () => {
    const answer = await fetch(`${base}/frames/${at}.jpg?${new URLSearchParams({ camera: name })}`);
    if (answer.status !== 200) throw await refusal(answer, "this picture");
    return createImageBitmap(await answer.blob());
  })();
  load.catch(() => pictures.delete(key));
  pictures.set(key, load);
  if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  return load;
}

let feeds = null;               // one of each camera, once they are known

// All cameras in step: none shows this step before all have it.
async function drawPictures(at) {
  const mine = ++wanted, shown = (feeds ?? []).filter(({ missing }) => !missing);
  const loaded = await Promise.allSettled(shown.map(({ name }) => picture(name, at)));
  if (mine !== wanted) return;
  shown.forEach(({ element, name }, i) => {
    const { value: bitmap, reason } = loaded[i];
    element.classList.toggle("has-frame", Boolean(bitmap));
    if (!bitmap) { setText(element.querySelector(".note"), reason.message); return; }
    const canvas = element.querySelector("canvas");
    canvas.width = bitmap.width; canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    element.dataset.step = at;
    for (let ahead = 1; ahead <= AHEAD; ahead++) if (at + ahead <= last) picture(name, at + ahead).catch(() => {});
  });
}

// What the numbers of an action are called, with their units where the body tells them.
const namesOf = (feature) => (feature?.names ?? [])
  .map((name, i) => feature.units?.[i] ? `${name} (${feature.units[i]})` : name).join(", ");

const valueAt = (values, at) => Array.isArray(values) ? values[at] : undefined;

function show(step, passing) {
  scrub.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  setText($("#where"), `step ${step} of ${last}`);
  drawPictures(step);
  if (steps) {
    const d = valueAt(steps.d, step), action = valueAt(steps.actions, step), actor = valueAt(steps.actors, step);
    setText(field("d"), number(d, 1));
    setText(field("reward"), isNumber(valueAt(steps.reward, step)) ? steps.reward[step].toFixed(2) : "–");
    const aside = valueAt(steps.fenced, step) ? ", turned aside by the fence" : "";
    setText(field("actor"), actor === undefined ? "–" : (typeof actor === "number" ? ACTORS[actor] : actor) + aside);
    const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
    setText(field("action"), action ? action.map(signed).join(" ") : "–");
    field("action").title = action ? namesOf(steps.embodiment?.action) : "";
    setText(field("time"), `${(step / (steps.fps || 5)).toFixed(1)} s`);
    const start = valueAt(steps.d, 0);
    setText(field("progress"), isNumber(d) && start > 0 ? percent(Math.max(0, 1 - d / start)) : "–");
  }
  if (passing) return;
  history.replaceState(null, "", page.step === undefined ? `?step=${step}` : location.search);
  const link = $("#to-playground");
  if (link) link.href = link.href.replace(/(&step=\d+)?$/, `&step=${step}`);
}

const player = new Player({ play: $("#play"), scrub, strip, perSecond: () => (steps?.fps || 5) * rate, show });
player.range(0, last);

for (const button of document.querySelectorAll("[data-rate]")) button.addEventListener("click", () => {
  rate = Number(button.dataset.rate);
  for (const each of document.querySelectorAll("[data-rate]")) {
    each.setAttribute("aria-pressed", String(each === button));
  }
  if (player.playing) player.start();
});

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event)) return;
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key === " ") { event.preventDefault(); player.toggle(); }
  else if (event.key in moves) {
    event.preventDefault();
    player.goTo(player.at + moves[event.key] * (event.shiftKey ? 10 : 1));
  } else if (event.key === "Home" || event.key === "End") {
    event.preventDefault();
    player.goTo(event.key === "Home" ? 0 : last);
  }
  else if (event.key === "m") player.toNextEvent();
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
  if (!labels.length || typing(event) || event.repeat || event.ctrlKey || event.metaKey || event.altKey
    || !event.shiftKey) return;
  const key = event.key.toLowerCase();
  if (key in LABELS) mark(LABELS[key]);
});
$("#add-correction")?.addEventListener("click", (event) => addToDataset(page.episode, event.currentTarget));

// A page that is about one step, such as a spot check, says so itself.
const asked = Number(new URLSearchParams(location.search).get("step") ?? page.step);
player.move(Number.isInteger(asked) ? asked : 0, true);
async function openCameras() {
  try { feeds = makeFeeds(await readCameras()); } catch (error) { setText(feed.querySelector(".note"), error.message); }
  drawPictures(player.at);
}
openCameras();
try {
  const answer = await fetch(`${base}/steps`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  steps = body;
  strip.setTrace(steps.d, { threshold: steps.threshold, limit: last,
    actors: (steps.actors ?? []).map((actor) => actor === "human" || actor === 1) });
  player.listEvents($("#events"), (step) => `Step ${step}`);
  player.move(player.at, true);
} catch (error) { toast(`The steps of this episode could not be read: ${error.message}`, "error"); }
