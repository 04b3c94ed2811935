// What a person does to a station, on the wall and on its own page alike: acts by button and by key, and driving.
// Driving is "hold and drive" by keys, pointer or gamepad: commands flow ten times a second only while something is
// held, and the station holds still by itself when they cease (its dead-man).

import { live, postApi } from "./live.js";
import { giveStop } from "./stop.js";
import { askReason, commandStation, lab, page, toast, typing, writing } from "./app.js";
import { root } from "./format.js";
import { Gamepads } from "./gamepad.js";

const DRIVE_EVERY_MS = 100;
const PAD_EVERY_MS = 50;
const WORDS = { true: "a true success", false: "a true failure", null: "unknown" };
export const mayAct = page.mayAct === "1";
export const CONNECTION_LOST = "Connection lost: commands are not sent";

export async function act(station, name, args = {}) {
  if (name === "stop") return giveStop(lab, station, station, toast);
  if (name === "clear_stop") {
    const reason = await askReason(`Clear the software stop of ${station}? It stays paused until it is resumed. `
      + "Say why it is safe; the reason is kept.", "Clear stop");
    if (!reason) return false;
    args = { reason };
  }
  return commandStation(station, name, args);
}

export const stopAll = () => giveStop(lab, null, null, toast);

// Marks an episode; the toast takes it back.
export async function label(uuid, value, name, changed = () => {}) {
  const done = await postApi(`labs/${lab}/episodes/${uuid}/label`, { true_success: value });
  if (!done.ok) { toast(done.error, "error"); return; }
  changed(value);
  const undo = async () => {
    const undone = await postApi(`labs/${lab}/episodes/${uuid}/label`,
      { true_success: done.previous, reason: "undone" });
    if (undone.ok) {
      changed(done.previous);
      toast(`${name} is ${WORDS[done.previous]} again.`);
    } else toast(undone.error, "error");
  };
  toast(`${name} is marked as ${WORDS[value]}.`, "plain",
    done.previous === value ? null : { label: "Undo", act: undo });
}

export async function labelLast(station, value, changed) {
  const answer = await fetch(`${root}api/labs/${lab}/episodes?station=${station}&limit=1`).catch(() => null);
  const [last] = answer?.ok ? (await answer.json()).items : [];
  if (last) label(last.uuid, value, `The last episode of ${station}, “${last.instruction}”,`, changed);
  else toast(answer?.ok ? `${station} has finished no episode yet.` : "The episodes could not be read; try again.",
    "error");
}

export async function addToDataset(uuid, button) {
  button.disabled = true;
  const done = await postApi(`labs/${lab}/episodes/${uuid}/dataset`);
  if (!done.ok) { button.disabled = false; toast(done.error, "error"); return; }
  button.textContent = `In “${done.name}”`;
  toast(`It is in the dataset “${done.name}” now, with ${done.episodes} correction${done.episodes === 1 ? "" : "s"}.`);
}

// ---- driving

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], a: [-1, 0], d: [1, 0],
  w: [0, 1], s: [0, -1] };
const axesOf = ([x, y]) => ({ x, y });
const keyOf = (event) => event.key.length === 1 ? event.key.toLowerCase() : event.key;

// One hand on the stick, whatever it holds: `current()` is the station that the page has selected.
export class Drive {
  constructor(current) {
    this.current = current;
    this.keys = new Set();
    this.pointer = null;       // {dx, dy}
    this.pad = null;           // [dx, dy] of the gamepad
    this.gamepads = new Gamepads();
    this.timer = null;
    this.station = null;       // the one that is being driven
    window.addEventListener("blur", () => this.release());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.release(); });
    window.addEventListener("pagehide", () => this.release());
    // Where a menu or a chord takes the keyboard, the end of a held key is never told.
    window.addEventListener("contextmenu", () => this.release());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) this.release();
    });
    live.addEventListener("control", ({ detail }) => { if (!detail.held) this.release(); });
    setInterval(() => this.readPad(), PAD_EVERY_MS);
  }

  get may() { const station = this.current(); return Boolean(station) && live.holds(station); }

  direction() {
    if (this.pointer) return [this.pointer.dx, this.pointer.dy];
    if (this.keys.size === 0 && this.pad) return this.pad;
    let dx = 0, dy = 0;
    for (const key of this.keys) { dx += ARROWS[key][0]; dy += ARROWS[key][1]; }
    const length = Math.hypot(dx, dy);
    return length > 1 ? [dx / length, dy / length] : [dx, dy];
  }

  // Something is held, or no longer: the stream begins or ends.
  update() {
    const pushed = this.may && (this.keys.size > 0 || this.pointer || this.pad);
    if (pushed && !this.timer) {
      this.station = this.current();
      const send = () => live.drive(lab, this.station, axesOf(this.direction()));
      send();
      this.timer = setInterval(send, DRIVE_EVERY_MS);
    } else if (!pushed && this.timer) {
      clearInterval(this.timer);
      this.timer = null;
      live.drive(lab, this.station, axesOf([0, 0]));
    }
  }

  release() {
    this.keys.clear();
    this.pointer = this.pad = null;
    this.gamepads.forget();
    this.update();
    this.onPointer?.(null);
  }

  readPad() {
    if (!this.may || document.hidden || !document.hasFocus()) { this.gamepads.forget(); return; }
    const { direction, handBack } = this.gamepads.read(navigator.getGamepads?.() ?? []);
    this.pad = direction;
    if (handBack) { this.release(); act(this.current(), "hand_back"); }
    this.update();
  }

  // The direction is the pointer's from the middle of the picture; half the shorter side is full speed.
  hold(feed, onPointer) {
    this.onPointer = onPointer;
    const point = (event) => {
      const box = feed.getBoundingClientRect(), reach = Math.min(box.width, box.height) / 2;
      const x = event.clientX - box.left - box.width / 2, y = event.clientY - box.top - box.height / 2;
      const length = Math.max(1, Math.hypot(x, y) / reach);
      this.pointer = { dx: x / reach / length, dy: -y / reach / length };
      onPointer({ ...this.pointer, x: box.width / 2, y: box.height / 2, reach });
      this.update();
    };
    feed.addEventListener("pointerdown", (event) => {
      if (!this.may || event.button !== 0) return;
      event.preventDefault();
      feed.setPointerCapture(event.pointerId);
      point(event);
    });
    feed.addEventListener("pointermove", (event) => { if (this.pointer) point(event); });
    const end = () => { if (this.pointer) { this.pointer = null; onPointer(null); this.update(); } };
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) feed.addEventListener(name, end);
  }
}

// ---- keys: `current()` is the selected station's card, or null

export function listenKeys(current, { drive, labelled = () => {} }) {
  const message = "Select a station first: press its number.";
  document.addEventListener("keydown", (event) => {
    if (!mayAct || writing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && (event.code === "Period" || event.key === ">")) {
      event.preventDefault();
      if (!event.repeat) stopAll();
      return;
    }
    if (typing(event) && event.key !== ".") return;   // a stop is heard while a dialog is open too
    const key = keyOf(event), card = current();
    if (key in ARROWS && drive.may && !event.shiftKey) {
      event.preventDefault();
      // Held since before control was taken, or since before the page was left: it has to be pressed anew.
      if (!event.repeat) { drive.keys.add(key); drive.update(); }
      return;
    }
    if (event.shiftKey && key in LABELS && !event.repeat) {
      event.preventDefault();
      if (!card) toast(message);
      else if (drive.may) toast("You are in control: hand back before you mark an episode by a key.");
      else labelLast(card.slug, LABELS[key], labelled);
      return;
    }
    if (event.repeat || event.shiftKey || !(key in ACTS)) return;
    if (key === " " && event.target.closest("button, a, summary")) return;
    event.preventDefault();
    if (!card) { toast(message); return; }
    ACTS[key](card);
  });
  document.addEventListener("keyup", (event) => { if (drive.keys.delete(keyOf(event))) drive.update(); });
  // A button that was clicked must not be pressed again by the space bar.
  document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button")?.blur(); });
}

// With Shift: a key that labels must not be one that drives, S above all.
export const LABELS = { s: true, f: false };

const ACTS = {
  " ": (card) => act(card.slug, card.state === "paused" ? "resume" : "pause"),
  o: (card) => act(card.slug, live.holds(card.slug) ? "hand_back" : "override"),
  r: async (card) => { if (await act(card.slug, "reset")) toast(`${card.name}: the reset is recorded.`); },
  e: (card) => act(card.slug, "end_episode"),
  c: (card) => { if (card.stop_latched || card.state === "stopped") act(card.slug, "clear_stop"); },
  ".": (card) => act(card.slug, "stop"),
};

document.querySelector("#stop-all")?.addEventListener("click", stopAll);
live.addEventListener("control", ({ detail }) => {
  if (!detail.held && detail.why) toast(`${detail.station}: ${detail.why}`, "error");
});
