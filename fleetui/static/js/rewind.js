// The last 30 s of a station, played back on its own page while the live picture stays in view, small. The server keeps
// them whether anybody watched or not. Time runs in fifths of a second; events are the largest rises of d.

import { Player } from "./player.js";
import { Strip } from "./strip.js";
import { lab, page, toast, typing } from "./app.js";
import { isNumber, number, percent, root, setText, stateWord } from "./format.js";

const A_SECOND = 5;
const CARRY_S = 1.3;             // a station where nothing happens speaks once a second, and sends two pictures
const $ = (selector) => document.querySelector(selector);
const feeds = $("#feeds"), panel = $("#rewind"), past = $("#past"), scrub = $("#rewind-at");
const opener = $("#rewind-open");
const field = (name) => panel.querySelector(`[data-f="${name}"]`);
const strip = new Strip($("#rewind-strip"), { large: true });
let columns = [], frames = [], wanted = 0, endedAt = 0;

function toBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/jpeg" });
}

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

// Seconds before the end, at most 0.
const timeOf = (column) => (column + 1 - columns.length) / A_SECOND;
const agoAt = (at) => Math.max(0, (performance.now() - endedAt) / 1000 - at);
const saidAgo = (at) => `${agoAt(at).toFixed(1)} s ago`;

async function open() {
  const answer = await fetch(`${root}api/labs/${lab}/stations/${page.station}/rewind`).catch(() => null);
  if (!answer?.ok) { toast("The last 30 s could not be fetched; try again.", "error"); return; }
  const body = await answer.json();
  if (!body.samples.length) {
    toast("There is nothing to rewind yet: nothing has come from the station since the server started.");
    return;
  }
  endedAt = performance.now() - 1000 * body.ended_s_ago;
  columns = inFifths(body.samples, body.seconds);
  frames = body.frames.map((frame) => ({ at: frame.at, picture: toBlob(frame.jpeg) }));
  player.range(Math.max(0, columns.findIndex(Boolean)), columns.length - 1);
  const starts = columns.flatMap((each, i) => each && columns[i - 1] && each.uuid !== columns[i - 1].uuid ? [i] : []);
  strip.clear();
  strip.axis = { every: 5 * A_SECOND, text: (i) => String(i / A_SECOND - body.seconds), unit: "s" };
  const inEpisode = (each) => each?.uuid ? each.d : null;
  strip.setTrace(columns.map(inEpisode),
    { starts, limit: columns.length, actors: columns.map((each) => Boolean(each?.human)),
    threshold: columns.findLast((each) => isNumber(each?.threshold))?.threshold });
  panel.hidden = false;
  past.hidden = false;
  feeds.dataset.rewinding = "";
  opener.setAttribute("aria-pressed", "true");
  const some = player.listEvents($("#rewind-events"), (at) => `${timeOf(at).toFixed(1)} s`,
    (at) => columns[at]?.instruction ?? "");
  $("#rewind-events").hidden = !some;
  field("no-events").hidden = some;
  player.goTo(player.first);
  history.replaceState(null, "", "?rewind=1");
  scrub.focus({ preventScroll: true });
}

function close() {
  player.halt();
  panel.hidden = true;
  past.hidden = true;
  delete feeds.dataset.rewinding;
  opener.setAttribute("aria-pressed", "false");
  history.replaceState(null, "", location.pathname);
}

const isOpen = () => !panel.hidden;

async function drawPicture(at) {
  const mine = ++wanted;
  // The newest picture by then, or at the beginning the first; none of another time.
  const nearest = frames.findLast((each) => each.at <= at + 1e-6) ?? frames[0];
  const frame = nearest && Math.abs(nearest.at - at) <= CARRY_S ? nearest : null;
  past.classList.toggle("has-frame", Boolean(frame));
  if (!frame) return;
  const bitmap = await createImageBitmap(frame.picture).catch(() => null);
  if (!bitmap || mine !== wanted) return;
  const canvas = past.querySelector("canvas");
  canvas.width = bitmap.width; canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function show(column) {
  const sample = columns[column], time = timeOf(column);
  scrub.setAttribute("aria-valuetext", saidAgo(time));
  past.dataset.column = column;
  sayWhen();
  setText(field("past-state"), sample ? stateWord(sample.state) : "stood still or not heard");
  setText(field("past-instruction"), sample?.instruction || sample?.reason || "");
  setText(field("past-numbers"), sample && isNumber(sample.d)
    ? `step ${sample.step}, d ${number(sample.d, 1)}, P(success) ${percent(sample.p_success)}` : "");
  drawPicture(time);
}

function sayWhen() {
  if (isOpen()) setText(past.querySelector(".when"), `Not live: ${saidAgo(timeOf(player.at))}`);
}

const player = new Player({ play: $("#rewind-play"), scrub, strip, perSecond: () => A_SECOND, show });

const toggle = () => { if (isOpen()) close(); else open(); };
opener.addEventListener("click", toggle);
$("#rewind-again").addEventListener("click", open);
$("#rewind-close").addEventListener("click", close);
setInterval(sayWhen, 500);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.repeat) return;
  if (typing(event)) return;
  if (event.key === "b") toggle();
  else if (!isOpen()) return;
  else if (event.key === "Escape") close();
  else if (event.key === "m") player.toNextEvent();
});

if (new URLSearchParams(location.search).has("rewind")) open();
