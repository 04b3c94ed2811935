// Calls for a person: the attention page kept current, and on every page that listens to the wall a sound or a
// notification of the browser for each new help request, where the person has asked for them here.

import { live } from "./live.js";
import { refreshTimes, root, serverNow, setText } from "./format.js";

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
      notice.onclick = () => {
        window.focus();
        location.href = `${root}labs/${document.body.dataset.lab}/stations/${slug}`;
      };
    }
  }
  first = false;
}

export function timeLeft(until) {
  const seconds = (new Date(until).getTime() - serverNow()) / 1000;
  return seconds <= 0 ? "over" : seconds < 90 ? `in ${Math.ceil(seconds)} s`
    : `in ${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function countDown() {
  for (const element of document.querySelectorAll("time[data-until]")) {
    setText(element, timeLeft(element.dataset.until));
  }
}
countDown();
setInterval(countDown, 1000);

// The server draws the page; when the wall tells of another call, or of somebody on the way, both lists are fetched
// anew. What a person writes stands in a dialog of its own, so nothing of it is taken away and nothing waits for it.
const requests = document.querySelector("#requests"), { lab } = document.body.dataset;
const closing = document.querySelector("#close-help");
const calls = new Map();       // station -> its call, as the wall told it last
let drawing = false, stale = false;

async function redraw() {
  stale = true;
  if (drawing) return;
  drawing = true;
  while (stale) {
    await new Promise((done) => setTimeout(done, 200));
    stale = false;
    const answer = await fetch(location.href).catch(() => null);
    const fresh = answer?.ok
      ? new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#requests") : null;
    if (!fresh) {
      stale = answer === null || answer.status >= 500;
      await new Promise((done) => setTimeout(done, 2000));
      continue;
    }
    const focused = requests.contains(document.activeElement) && document.activeElement,
      row = focused && focused.closest("tr")?.id;
    const before = drawnCalls();
    requests.replaceChildren(...fresh.childNodes);
    if (row && focused.value) requests.querySelector(`#${row} button[value="${focused.value}"]`)?.focus();
    if (row && focused.dataset.close) requests.querySelector(`#${row} [data-close]`)?.focus();
    refreshTimes(requests);
    countDown();
    announce(before);
  }
  drawing = false;
}

const drawnCalls = () => new Set([...requests.querySelectorAll("tr[id^=help-]")].map((row) => row.id));

// Rows that came are read out; while a dialog covers the page, in the dialog, for a screen reader hears nothing beside
// it.
function announce(before) {
  const fresh = [...requests.querySelectorAll("tr[id^=help-]")].filter((row) => !before.has(row.id));
  const needs = fresh.map((row) =>
    `${row.cells[0].textContent.trim()}: ${row.querySelector("[data-f=reason]").textContent.trim()}`).join("; ");
  if (needs) setText(document.querySelector("#new-needs"), `A person is needed. ${needs}`);
  if (!closing?.open) return;
  const { number } = closing.dataset;
  const gone = number && !drawnCalls().has(`help-${number}`) ? "This request has been closed by now." : "";
  const line = closing.querySelector("[data-f=meanwhile]");
  setText(line, [gone, needs && `New since: ${needs}`].filter(Boolean).join(" ") || line.textContent);
}

// ---- close by hand
function openClosing(number, name, action) {
  setText(closing.querySelector("[data-f=closing]"), name);
  setText(closing.querySelector("[data-f=meanwhile]"), "");
  closing.dataset.number = number;
  closing.querySelector("form").action = action;
  closing.querySelector("[name=outcome]").value = "";
  closing.close();                // a page without JavaScript opened it beside the list, not above it
  closing.showModal();
  closing.querySelector("[name=outcome]").focus();
}
requests?.addEventListener("click", (event) => {
  const link = event.target.closest("[data-close]");
  if (!link) return;
  event.preventDefault();
  openClosing(link.dataset.close, link.dataset.name, link.dataset.action);
});
closing?.querySelector("#close-help-no").addEventListener("click", (event) => {
  event.preventDefault();
  closing.close();
});
if (closing?.open) {
  const name = closing.querySelector("[data-f=closing]").textContent;
  openClosing(closing.dataset.number, name, closing.querySelector("form").action);
}

// Whether the page as it was drawn lacks one of these calls, or has one more.
function differs(cards) {
  const drawn = drawnCalls();
  const open = cards.filter((card) => card.help).map((card) => `help-${card.help.id}`);
  return open.length !== drawn.size || open.some((id) => !drawn.has(id));
}

if (requests) live.subscribe(`wall:${lab}`, { subscribe: "wall", lab }, (type, data) => {
  const cards = type === "snapshot" ? data.stations : data.card && "help" in data.card ? [data.card] : [];
  let changed = type === "snapshot" && differs(cards);
  for (const { slug, help } of cards) {
    const call = JSON.stringify(help);
    changed ||= calls.has(slug) && calls.get(slug) !== call;
    calls.set(slug, call);
  }
  if (changed) redraw();
  if (type === "snapshot" || cards.some((card) => card.help)) hearCalls(cards);
});

const message = document.querySelector("#alert-said");
for (const name of [SOUND, NOTICE]) {
  const box = document.querySelector(`#${name}`);
  if (!box) continue;
  box.checked = wished(name);
  box.addEventListener("change", async () => {
    if (name === NOTICE && box.checked) {
      const answer = "Notification" in window ? await Notification.requestPermission() : "denied";
      if (answer !== "granted") {
        box.checked = false;
        setText(message, "This browser does not allow notifications from this site. Allow them in its settings, "
          + "then try again.");
        return;
      }
    }
    if (name === SOUND && box.checked) sound("warning");
    wish(name, box.checked);
    setText(message, "Saved in this browser.");
  });
}
