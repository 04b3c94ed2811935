// The last 30 s of a station, played back on its own page while the live picture stays in view, small. The server keeps them
// whether anybody watched or not. Time runs in fifths of a second; moments are the largest rises of d.

import { Strip } from "./strip.js";
import { lab, page, toast, typing } from "./app.js";
import { isNumber, number, percent, setText, STATES } from "./format.js";

const A_SECOND = 5;
const CARRY_S = 1.3;             // a station where nothing happens speaks once a second
const $ = (selector) => document.querySelector(selector);
const feeds = $("#feeds"), panel = $("#rewind"), past = $("#past"), scrub = $("#rewind-at"), play = $("#rewind-play");
const buttons = document.querySelectorAll("[data-rewind]");
const field = (name) => panel.querySelector(`[data-f="${name}"]`);
const strip = new Strip($("#rewind-strip"), { large: true });
let columns = [], frames = [], column = 0, timer = null, wanted = 0, endedAt = 0, first = 0;

function toBlob(base64) { return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/jpeg" }); }

// [{at, ...sample} or null], one for each fifth of a second: what the station had said last by then.
function inFifths(samples, seconds) {
  const all = [];
  let next = 0, last = null;
  for (let i = 0; i < seconds * A_SECOND; i++) {
    const at = (i + 1) / A_SECOND - seconds;
    while (next < samples.length && samples[next].at <= at + 1e-6) last = samples[next++];
    all.push(last && at - last.at <= CARRY_S ? { ...last, at } : null);
  }
  return all;
}

const agoAt = (at) => Math.max(0, (performance.now() - endedAt) / 1000 - at);
const saidAgo = (at) => `${agoAt(at).toFixed(1)} s ago`;

async function open() {
  const answer = await fetch(`/api/labs/${lab}/stations/${page.station}/rewind`).catch(() => null);
  if (!answer?.ok) { toast("The last 30 s could not be fetched; try again.", "error"); return; }
  const body = await answer.json();
  if (!body.samples.length) { toast("There is nothing to rewind yet: the station has not been heard since the server began."); return; }
  endedAt = performance.now() - 1000 * body.ended_s_ago;
  columns = inFifths(body.samples, body.seconds);
  frames = body.frames.map((frame) => ({ at: frame.at, picture: toBlob(frame.jpeg) }));
  first = Math.max(0, columns.findIndex(Boolean));
  scrub.min = first;
  scrub.max = columns.length - 1;
  const starts = columns.flatMap((each, i) => each && columns[i - 1] && each.uuid !== columns[i - 1].uuid ? [i] : []);
  strip.clear();
  strip.axis = { every: 5 * A_SECOND, text: (i) => String(i / A_SECOND - body.seconds), unit: "s" };
  const inEpisode = (each) => each?.uuid ? each.d : null;
  strip.setTrace(columns.map(inEpisode), { starts, limit: columns.length, actors: columns.map((each) => Boolean(each?.human)),
    threshold: columns.findLast((each) => isNumber(each?.threshold))?.threshold });
  panel.hidden = false;
  past.hidden = false;
  feeds.dataset.rewinding = "";
  for (const button of buttons) button.setAttribute("aria-pressed", "true");
  listMoments();
  show(first);
  history.replaceState(null, "", "?rewind=1");
  scrub.focus({ preventScroll: true });
}

function close() {
  pause();
  panel.hidden = true;
  past.hidden = true;
  delete feeds.dataset.rewinding;
  for (const button of buttons) button.setAttribute("aria-pressed", "false");
  history.replaceState(null, "", location.pathname);
}

const isOpen = () => !panel.hidden;

function listMoments() {
  const moments = strip.moments().sort((a, b) => a.step - b.step);
  field("no-moments").hidden = moments.length > 0;
  $("#rewind-moments").replaceChildren(...moments.map(({ step: at, rise }) => {
    const row = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.textContent = `${(at / A_SECOND - columns.length / A_SECOND).toFixed(1)} s: d rose by ${rise.toFixed(1)}`;
    button.title = columns[at]?.instruction ?? "";
    button.addEventListener("click", () => goTo(at));
    row.append(button);
    return row;
  }));
}

async function drawPicture(at) {
  const mine = ++wanted;
  // The newest picture by then; at the very beginning the first one there is.
  const frame = frames.findLast((each) => each.at <= at + 1e-6) ?? frames[0];
  past.classList.toggle("has-frame", Boolean(frame));
  if (!frame) return;
  const bitmap = await createImageBitmap(frame.picture).catch(() => null);
  if (!bitmap || mine !== wanted) return;
  const canvas = past.querySelector("canvas");
  canvas.width = bitmap.width; canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function show(at) {
  column = Math.max(first, Math.min(columns.length - 1, at));
  const said = columns[column], time = (column + 1) / A_SECOND - columns.length / A_SECOND;
  scrub.value = column;
  scrub.setAttribute("aria-valuetext", saidAgo(time));
  past.dataset.column = column;
  strip.setCursor(column);
  sayWhen();
  setText(field("past-state"), said ? STATES[said.state] ?? said.state : "not heard");
  setText(field("past-instruction"), said?.instruction || said?.reason || "");
  setText(field("past-numbers"), said && isNumber(said.d) ? `step ${said.step}, d ${number(said.d, 1)}, P ${percent(said.p_success)}` : "");
  drawPicture(time);
}

function sayWhen() {
  if (isOpen()) setText(past.querySelector(".when"), `Not live: ${saidAgo((column + 1) / A_SECOND - columns.length / A_SECOND)}`);
}

function pause() {
  clearInterval(timer);
  timer = null;
  play.setAttribute("aria-label", "Play");
  play.querySelector("use").setAttribute("href", "#i-play");
}

function start() {
  if (column >= columns.length - 1) show(first);
  play.setAttribute("aria-label", "Pause");
  play.querySelector("use").setAttribute("href", "#i-pause");
  timer = setInterval(() => { if (column >= columns.length - 1) pause(); else show(column + 1); }, 1000 / A_SECOND);
}

const goTo = (at) => { pause(); show(at); };

for (const button of buttons) button.addEventListener("click", () => { if (isOpen()) close(); else open(); });
$("#rewind-again").addEventListener("click", open);
$("#rewind-close").addEventListener("click", close);
play.addEventListener("click", () => { if (timer) pause(); else start(); });
scrub.addEventListener("input", () => goTo(Number(scrub.value)));
strip.canvas.addEventListener("pointerdown", (event) => {
  strip.canvas.setPointerCapture(event.pointerId);
  goTo(strip.stepAt(event.clientX));
});
strip.canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) goTo(strip.stepAt(event.clientX)); });
setInterval(sayWhen, 500);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.repeat) return;
  if (typing(event) && event.target !== scrub) return;
  if (event.key === "b") { if (isOpen()) close(); else open(); }
  else if (!isOpen()) return;
  else if (event.key === "Escape") close();
  else if (event.key === "m") {
    const moments = strip.moments().map((each) => each.step).sort((a, b) => a - b);
    if (moments.length) goTo(moments.find((each) => each > column) ?? moments[0]);
  }
});

if (new URLSearchParams(location.search).has("rewind")) open();
