// What a person does to a station, on the wall and on its own page alike: acts by button and by key. Driving is in
// drive.js.

import { live, postApi } from "./live.js";
import { giveStop } from "./stop.js";
import { askReason, commandStation, lab, page, toast, typing, writing } from "./app.js";
import { root } from "./format.js";

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

// Answers what an episode's method asks of it.
export async function giveAnswer(uuid, value, changed = () => {}) {
  const done = await postApi(`labs/${lab}/episodes/${uuid}/answer`, { value });
  if (done.ok) changed(value);
  else toast(done.error, "error");
}

// The oldest of the newest episodes that waits for an answer.
async function answerNext(station, value, changed) {
  const found = await fetch(`${root}api/labs/${lab}/episodes?station=${station}&limit=20`).catch(() => null);
  const rows = found?.ok ? (await found.json()).items : [];
  const waiting = rows.filter((each) => each.asks && !(each.asks in each.labels));
  if (waiting.length) giveAnswer(waiting.at(-1).uuid, value, changed);
  else toast(found?.ok ? `Nothing of ${station} waits for an answer.` : "The episodes could not be read; try again.");
}

export async function addToDataset(uuid, button) {
  button.disabled = true;
  const done = await postApi(`labs/${lab}/episodes/${uuid}/dataset`);
  if (!done.ok) { button.disabled = false; toast(done.error, "error"); return; }
  button.textContent = `In “${done.name}”`;
  toast(`It is in the dataset “${done.name}” now, with ${done.episodes} correction${done.episodes === 1 ? "" : "s"}.`);
}

// ---- keys: `current()` is the selected station's card, or null

const keyOf = (event) => event.key.length === 1 ? event.key.toLowerCase() : event.key;

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
    if (drive.may && !event.shiftKey && drive.takes(key)) {
      event.preventDefault();
      // Held since before control was taken, or since before the page was left: it has to be pressed anew.
      if (!event.repeat) drive.press(key);
      return;
    }
    if (event.shiftKey && key in LABELS && !event.repeat) {
      event.preventDefault();
      if (!card) toast(message);
      else if (drive.may) toast("You are in control: hand back before you mark an episode by a key.");
      else labelLast(card.slug, LABELS[key], labelled);
      return;
    }
    if (event.shiftKey && !event.repeat && key in ANSWERS) {
      event.preventDefault();
      if (card) answerNext(card.slug, ANSWERS[key], labelled);
      else toast(message);
      return;
    }
    if (event.repeat || event.shiftKey || !(key in ACTS) || drive.keeps(key)) return;
    if (key === " " && event.target.closest("button, a, summary")) return;
    event.preventDefault();
    if (!card) { toast(message); return; }
    ACTS[key](card);
  });
  document.addEventListener("keyup", (event) => drive.lift(keyOf(event)));
  drive.addEventListener("handback", () => act(current().slug, "hand_back"));
  // A button that was clicked must not be pressed again by the space bar.
  document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button")?.blur(); });
}

// With Shift: a key that labels must not be one that drives, S above all.
export const LABELS = { s: true, f: false };
const ANSWERS = { y: true, n: false };

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
