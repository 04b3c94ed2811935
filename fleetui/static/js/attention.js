// Calls for a person: the attention page kept current, and on every page that listens to the wall a sound or a notification of
// the browser for each new help request, where the person has asked for them here.

import { live } from "./live.js";
import { refreshTimes, serverNow, setText } from "./format.js";

const SOUND = "alert-sound", NOTICE = "alert-notice";
const LOUD = { info: 0, warning: 1, error: 2, critical: 3 };   // tones a sound has; information makes none
const known = new Set();
let first = true, audio = null;

function wished(name) { try { return localStorage.getItem(name) === "1"; } catch { return false; } }
function wish(name, on) { try { localStorage.setItem(name, on ? "1" : "0"); } catch { /* not kept then */ } }

function sound(severity) {
  audio ??= new AudioContext();
  for (let i = 0; i < LOUD[severity]; i++) {
    const tone = audio.createOscillator(), level = audio.createGain(), at = audio.currentTime + 0.22 * i;
    tone.frequency.value = severity === "critical" ? 880 : 620;
    level.gain.setValueAtTime(0.0001, at);
    level.gain.exponentialRampToValueAtTime(0.25, at + 0.02);
    level.gain.exponentialRampToValueAtTime(0.0001, at + 0.18);
    tone.connect(level).connect(audio.destination);
    tone.start(at);
    tone.stop(at + 0.2);
  }
}

// The wall's cards as they are now: whoever is new among those that call makes itself heard, once.
export function hearCalls(stations) {
  for (const { name, slug, help } of stations) {
    if (!help || known.has(help.id)) continue;
    known.add(help.id);
    if (first || help.acknowledged_by || help.taken_by || !LOUD[help.severity]) continue;
    if (wished(SOUND)) sound(help.severity);
    if (wished(NOTICE) && "Notification" in window && Notification.permission === "granted") {
      const notice = new Notification(name ?? slug, { body: help.reason, tag: `help-${help.id}` });
      notice.onclick = () => { window.focus(); location.href = `/labs/${document.body.dataset.lab}/stations/${slug}`; };
    }
  }
  first = false;
}

export function timeLeft(until) {
  const seconds = (new Date(until).getTime() - serverNow()) / 1000;
  return seconds <= 0 ? "over" : seconds < 90 ? `in ${Math.ceil(seconds)} s` : `in ${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function countDown() {
  for (const element of document.querySelectorAll("time[data-until]")) setText(element, timeLeft(element.dataset.until));
}
countDown();
setInterval(countDown, 1000);

// The server draws the page; when the wall tells of another call, or of somebody on the way, both lists are fetched anew. What a
// person is typing is not taken away.
const requests = document.querySelector("#requests"), { lab } = document.body.dataset;
const calls = new Map();       // station -> its call as the page was drawn for it
let drawing = null;

async function redraw() {
  drawing = null;
  if (requests.contains(document.activeElement) && document.activeElement.matches("input")) { drawing = setTimeout(redraw, 1000); return; }
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#requests");
  if (!fresh) return;
  requests.replaceChildren(...fresh.childNodes);
  refreshTimes(requests);
  countDown();
}

function hearOfChange(cards) {
  let changed = false;
  for (const card of cards) {
    if (!("help" in card)) continue;
    const call = JSON.stringify(card.help);
    changed ||= calls.get(card.slug) !== call;
    calls.set(card.slug, call);
  }
  if (changed) drawing ??= setTimeout(redraw, 200);
}

if (requests) live.subscribe(`wall:${lab}`, { subscribe: "wall", lab }, (type, data) => {
  if (type === "snapshot") calls.clear();
  const cards = type === "snapshot" ? data.stations : data.card ? [data.card] : [];
  hearOfChange(cards);
  if (type === "snapshot") hearCalls(cards); else for (const card of cards) if (card.help) hearCalls([card]);
});

const said = document.querySelector("#alert-said");
for (const name of [SOUND, NOTICE]) {
  const box = document.querySelector(`#${name}`);
  if (!box) continue;
  box.checked = wished(name);
  box.addEventListener("change", async () => {
    if (name === NOTICE && box.checked) {
      const answer = "Notification" in window ? await Notification.requestPermission() : "denied";
      if (answer !== "granted") {
        box.checked = false;
        setText(said, "The browser does not allow notifications for this site; its settings say so, and can be changed there.");
        return;
      }
    }
    if (name === SOUND && box.checked) sound("warning");
    wish(name, box.checked);
    setText(said, "Kept in this browser.");
  });
}
