// One station: watch it large, and act on it. Driving is "hold and drive": commands flow ten times a second only while a
// key or the pointer is held, and the station holds still by itself when they cease (its dead-man).

import { live, showFrames } from "./live.js";
import { Strip } from "./strip.js";
import { commandStation, lab, page, toast, typing } from "./app.js";
import { ago, count, isNumber, number, percent, refreshTimes, setState, setText, STATES } from "./format.js";

const slug = page.station;
const mayAct = page.mayAct === "1";
const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const feed = $("#feed");
const strip = new Strip($("#strip"), { large: true });
const DRIVE_EVERY_MS = 100;
let data = {};

showFrames(feed, lab, slug, { size: "large", fps: 10, onFrame: (header) => setText(field("frame-time"), `frame of step ${header.step}`) });

function render() {
  const state = data.connected === false ? "offline" : data.state;
  document.body.dataset.stationState = state;
  for (const element of document.querySelectorAll("[data-f=state]")) setState(element, state);
  setText(field("instruction"), data.instruction || "No instruction");
  setText(field("step"), isNumber(data.step) ? `${data.step}${data.limit ? ` of ${data.limit}` : ""}` : "–");
  setText(field("d"), number(data.d, 1));
  setText(field("d-start"), isNumber(data.d_start) ? `from ${number(data.d_start, 1)}` : "");
  setText(field("progress"), isNumber(data.progress) ? percent(Math.max(0, Math.min(1, data.progress))) : "–");
  setText(field("p"), number(data.p_success, 2));
  setText(field("version"), isNumber(data.version) ? `v${data.version}` : "–");
  setText(field("episodes"), count(data.episodes));
  setText(field("threshold"), isNumber(data.threshold) ? `done at d ≤ ${number(data.threshold, 1)}` : "");
  setText(field("task"), data.task || "none");
  setText(field("seen"), data.connected ? "connected" : data.last_seen ? `last seen ${ago(new Date(data.last_seen))}` : "never seen yet");

  const needs = $("#needs");
  const advice = { needs_person: "Put every block back on the table and shuffle them, then press Reset done.",
    stopped: "Check that the workspace is clear, then press Clear stop. It stays paused until you press Resume.",
    offline: "Its process is not connected. A simulated station comes back with the station host; a real one with its own command." }[state];
  needs.hidden = !advice;
  needs.dataset.state = state;
  setText(field("need"), data.reason || STATES[state]);
  setText(field("need-advice"), advice ?? "");

  const overridden = state === "overridden";
  feed.classList.toggle("drivable", overridden && mayAct);
  setText(field("drive-hint"), overridden ? data.reason || "Hold an arrow key or W A S D, or press and drag on the picture. Let go: it holds still." : "");
  if (!overridden) release();
  if (mayAct) {
    const can = (name, yes) => { const button = $(`[data-command="${name}"]`); if (button) button.disabled = !yes; };
    const reachable = state !== "offline" && "offline" in document.body.dataset === false;
    can("reset", reachable && state !== "stopped" && !overridden);
    can("override", reachable && !overridden && state !== "stopped");
    can("hand_back", reachable && overridden);
    can("end_episode", reachable && ["practising", "evaluating"].includes(state));
    $("#clear-stop").hidden = !(state === "stopped" || data.stop_latched);
    $("#stop").hidden = state === "stopped" || Boolean(data.stop_latched);
    // One primary act at a time: the one that this state asks for.
    $('[data-command="reset"]').classList.toggle("primary", state === "needs_person");
    $('[data-command="hand_back"]').classList.toggle("primary", overridden);
    const pause = $("#pause");
    pause.dataset.command = state === "paused" ? "resume" : "pause";
    pause.querySelector("use").setAttribute("href", state === "paused" ? "#i-play" : "#i-pause");
    setText(pause.querySelector("span"), state === "paused" ? "Resume" : "Pause");
    pause.disabled = !reachable || state === "stopped";
    pause.classList.toggle("primary", state === "paused");
    for (const button of document.querySelectorAll("[data-speed]")) button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === data.speed));
  }
}

function addRecent(recent) {
  const list = $("#recent");
  if (!list || !recent) return;
  list.replaceChildren(...recent.slice(0, 8).map((episode) => {
    const row = document.createElement("li");
    row.className = "between";
    const link = document.createElement("a");
    link.href = `/labs/${lab}/episodes/${episode.uuid}`;
    link.textContent = episode.instruction || "episode";
    const rest = document.createElement("span");
    rest.className = "muted nowrap small";
    rest.textContent = `${(episode.ending ?? "").replaceAll("_", " ")} · ${episode.steps ?? "?"} steps`;
    row.append(link, rest);
    return row;
  }));
  $("#no-recent").hidden = recent.length > 0;
}

async function readRecent() {
  const answer = await fetch(`/api/labs/${lab}/episodes?station=${slug}&limit=8`).catch(() => null);
  if (answer?.ok) addRecent(await answer.json());
}

live.subscribe(`station:${lab}/${slug}`, { subscribe: "station", lab, station: slug }, (type, change) => {
  const before = data;
  const changed = change.card ?? change;
  data = type === "snapshot" ? { ...changed } : { ...data, ...changed };
  if (type === "snapshot") {
    strip.clear();
    if (changed.trace?.length) strip.setTrace(changed.trace, { threshold: data.threshold, limit: data.limit });
  }
  if (type === "delta" && "uuid" in changed && before.uuid && changed.uuid !== before.uuid) strip.clear();
  if ("step" in changed || "d" in changed) strip.add(data);
  if (change.recent) addRecent(change.recent);
  if (type === "delta" && data.episodes !== before.episodes) readRecent();
  render();
});
live.addEventListener("online", render);
setInterval(render, 5000);

// ---- acts
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-command]");
  if (!button) return;
  const name = button.dataset.command;
  if (name === "speed") { if (await commandStation(slug, "speed", { value: Number(button.dataset.speed) })) { data.speed = Number(button.dataset.speed); render(); } return; }
  if (await commandStation(slug, name) && name === "reset") toast(`${data.name}: the reset is noted.`);
});

// ---- driving
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], a: [-1, 0], d: [1, 0], w: [0, 1], s: [0, -1] };
const held = new Set();
let pointer = null, timer = null;

function direction() {
  if (pointer) return [pointer.dx, pointer.dy];
  let dx = 0, dy = 0;
  for (const key of held) { dx += KEYS[key][0]; dy += KEYS[key][1]; }
  const length = Math.hypot(dx, dy);
  return length > 1 ? [dx / length, dy / length] : [dx, dy];
}

function push() {
  if (timer) return;
  const send = () => live.drive(lab, slug, ...direction());
  send();
  timer = setInterval(send, DRIVE_EVERY_MS);
}

function release() {
  held.clear(); pointer = null;
  drawStick();
  if (!timer) return;
  clearInterval(timer);
  timer = null;
  live.drive(lab, slug, 0, 0);
}

function drawStick() {
  const line = feed.querySelector(".stick line"), dot = feed.querySelector(".stick circle");
  feed.querySelector(".stick").toggleAttribute("hidden", !pointer);
  if (!pointer) return;
  line.setAttribute("x1", pointer.x); line.setAttribute("y1", pointer.y);
  line.setAttribute("x2", pointer.x + pointer.dx * pointer.reach); line.setAttribute("y2", pointer.y - pointer.dy * pointer.reach);
  dot.setAttribute("cx", pointer.x); dot.setAttribute("cy", pointer.y);
}

const keyOf = (event) => event.key.length === 1 ? event.key.toLowerCase() : event.key;
document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey || !mayAct) return;
  const key = keyOf(event);
  if (key in KEYS && data.state === "overridden") { event.preventDefault(); held.add(key); push(); return; }
  if (event.repeat || event.target.closest("button, a, summary") && key === "Enter") return;
  const button = { o: '[data-command="override"]', h: '[data-command="hand_back"]', r: '[data-command="reset"]', e: '[data-command="end_episode"]',
    p: "#pause", ".": "#stop", Escape: "#stop", c: '#clear-stop' }[key];
  const element = button && $(button);
  if (element && !element.disabled && !element.hidden) { event.preventDefault(); element.click(); }
});
document.addEventListener("keyup", (event) => {
  if (!held.delete(keyOf(event))) return;
  if (held.size === 0 && !pointer) release();
});
window.addEventListener("blur", release);
document.addEventListener("visibilitychange", () => { if (document.hidden) release(); });

feed.addEventListener("pointerdown", (event) => {
  if (!feed.classList.contains("drivable") || event.button !== 0) return;
  event.preventDefault();
  feed.setPointerCapture(event.pointerId);
  const box = feed.getBoundingClientRect();
  pointer = { x: event.clientX - box.left, y: event.clientY - box.top, dx: 0, dy: 0, reach: Math.min(box.width, box.height) / 4 };
  drawStick(); push();
});
feed.addEventListener("pointermove", (event) => {
  if (!pointer) return;
  const box = feed.getBoundingClientRect();
  const dx = (event.clientX - box.left - pointer.x) / pointer.reach, dy = -(event.clientY - box.top - pointer.y) / pointer.reach;
  const length = Math.max(1, Math.hypot(dx, dy));
  pointer.dx = dx / length; pointer.dy = dy / length;
  drawStick();
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) feed.addEventListener(end, () => { if (pointer) release(); });

refreshTimes();
