// The wall: a card a station, those that need a person first. Cards are drawn by the server; this file keeps them
// current.

import { live, postApi, showFrames, silentMs } from "./live.js";
import { Strip } from "./strip.js";
import { hearCalls, timeLeft } from "./attention.js";
import { askReason, confirmAct, lab, toast, typing } from "./app.js";
import { driveWords } from "./axes.js";
import { act, CONNECTION_LOST, listenKeys, mayAct } from "./control.js";
import { Drive, showDriveKeys } from "./drive.js";
import { ago, count, isNumber, number, percent, root, serverNow, setState, setText, speedWord, STATES,
  stateWord } from "./format.js";
import { signalWords } from "./signals.js";

const wall = document.querySelector("#wall");
const work = document.querySelector("#at-work");
const attention = document.querySelector("#attention");
const template = document.querySelector("#card-template");
const cards = new Map();       // slug -> {element, data, strip}
const inUse = () => [...cards.values()].filter((card) => !card.data.archived);
const STALE_AFTER_MS = 5000;      // every station speaks each second, in every state
const SETTLED_MS = 1000;
const ON_THE_WALL = 2;  // signals of a policy
const CAMERA_GONE_MS = 1000;      // the card shows the first camera, and another one may have failed
const NO_INSTRUCTION = { idle: "No task yet", waiting: "Waiting for the next policy",
  paused: "It stands still until it is resumed",
  maintenance: "In maintenance" };

function adopt(element) {
  const slug = element.dataset.station;
  // Its number and name stand in the page before the socket says more: keys select from the first moment on.
  const text = (name) => element.querySelector(`[data-f="${name}"]`).textContent;
  const data = { slug, number: Number(text("number")), name: text("name") };
  const card = { element, data, heard: performance.now(), wantsSince: 0,
    strip: new Strip(element.querySelector(".strip")) };
  cards.set(slug, card);
  showFrames(element.querySelector(".feed"), lab, slug, { size: "small", fps: 5 });
  return card;
}

function make(slug) {
  const element = template.content.firstElementChild.cloneNode(true);
  element.dataset.station = slug;
  for (const link of element.querySelectorAll("a")) link.href = `${root}labs/${lab}/stations/${slug}`;
  work.append(element);
  return adopt(element);
}

// What to do and which button does it. The words are the server's, by the kind of the need, since a driver's fault and
// a block on the floor want different things of the same state; until the request has come, the reason alone says it.
function advice(data) {
  if (!mayAct) return ["A supervisor or a manager can act on it.", null, null];
  const words = data.help?.advice ?? "";
  if (data.state === "stopped" || data.stop_latched) return [words, "clear_stop", "Clear stop"];
  if (data.state === "needs_person") return [words, "reset", "Reset done"];
  if (data.state === "overridden" && live.holds(data.slug)) {
    const way = data.device ? driveWords(data) : "Drive it by the keys (? lists them) or a gamepad.";
    return [`${way} Then hand it back to the policy.`, "hand_back", "Hand back"];
  }
  if (data.state === "overridden" && data.holder) {
    return [`Until ${data.holder} hands it back, others can only stop it.`, null, null];
  }
  if (data.state === "overridden") {
    const message = words || "Nobody drives it now. Open the station to take over, or hand it back to the policy.";
    return [message, "hand_back", "Hand back"];
  }
  if (data.state === "paused") return ["", "resume", "Resume"];
  if (data.help?.act === "end_episode") return [words, "end_episode", "End episode"];
  return [words || "Open the station to see what it needs.", null, null];
}

function render(card) {
  const { element, data } = card;
  const field = (name) => element.querySelector(`[data-f="${name}"]`);
  const state = data.maintenance || data.connected !== false ? data.state : "offline";
  element.dataset.state = state;
  setState(element.querySelector(".state"), state);
  setText(field("name"), data.name ?? element.dataset.station);
  setText(field("instruction"), (state === "maintenance" && data.maintenance) || data.instruction
    || NO_INSTRUCTION[state] || "–");
  const progress = Math.max(0, Math.min(1, data.progress ?? 0));
  field("progress").style.width = `${100 * progress}%`;
  setText(field("progress-text"), isNumber(data.progress) ? percent(progress) : "–");
  setText(field("p"), number(data.p_success, 2));
  setText(field("step"), isNumber(data.step) && data.limit ? `${data.step} of ${data.limit}` : "–");
  setText(field("version"), isNumber(data.version) ? `v${data.version}` : "none");
  setText(field("signals"), signalWords(data.signals, ON_THE_WALL));
  setText(field("episodes"), count(data.episodes ?? 0));
  setText(field("speed"), speedWord(data.speed));
  setText(field("number"), String(data.number ?? ""));
  const mine = live.holds(data.slug);
  setText(field("holder"), state !== "overridden" ? "" : mine ? "You are in control"
    : data.holder ? `${data.holder} is in control` : "");
  setText(field("reason"), data.help?.reason || data.reason || STATES[state]?.words || "");
  renderCall(card);
  const [words, command, label] = advice(data);
  setText(field("advice"), words);
  const button = field("act");
  if (button) { button.hidden = !command; button.dataset.command = command ?? ""; setText(button, label ?? ""); }
  refuseOffline(button);
  setText(element.querySelector(".feed .note"),
    state === "offline" ? "offline" : data.camera_error || "waiting for a picture");
  setText(field("camera-error"), data.camera_error ?? "");
  const feed = element.querySelector(".feed");
  if (data.camera_error && silentMs(feed) > CAMERA_GONE_MS) feed.classList.remove("has-frame");
  refreshStale(card);
}

// Who is on the way to it, and until when help is of use.
function renderCall({ element, data }) {
  const field = (name) => element.querySelector(`[data-f="${name}"]`), help = data.help;
  field("call").hidden = !help;
  if (!help) return;
  field("severity").dataset.severity = help.severity;
  setText(field("severity"), help.severity);
  setText(field("call-who"), help.taken_by ? `taken by ${help.taken_by}`
    : help.acknowledged_by ? `seen by ${help.acknowledged_by}` : "");
  setText(field("call-by"), help.help_by ? `over ${timeLeft(help.help_by)}` : "");
  const take = field("call-take");
  if (take) take.hidden = Boolean(help.taken_by);
}

function refuseOffline(button) {
  if (!button) return;
  button.disabled = "offline" in document.body.dataset;
  button.title = button.disabled ? CONNECTION_LOST : "";
}

function refreshStale(card) {
  const { element, data } = card;
  const away = data.connected === false;
  const heard = performance.now() - card.heard;
  const stale = away || "offline" in document.body.dataset || heard > STALE_AFTER_MS;
  const seen = away ? data.last_seen && new Date(data.last_seen) : new Date(serverNow() - heard);
  element.classList.toggle("stale", stale);
  setText(element.querySelector(".stale-mark"), stale ? (seen ? `seen ${ago(seen)}` : "never seen") : "");
}

// A card moves only when its need for a person changes, never for a mere number; and not for a moment's need either,
// since a station that resets itself would leap to and fro. A stop is shown at once.
function place() {
  const wanting = [], working = [];
  for (const card of cards.values()) {
    // What it goes on saying is kept, for it may come back.
    if (card.data.archived) { card.element.remove(); continue; }
    const wants = card.data.help
      || card.data.attention && (card.data.stop_latched || performance.now() - card.wantsSince >= SETTLED_MS);
    (wants ? wanting : working).push(card);
  }
  // As on the attention page: where a visit saves most, whoever has waited longest among equals.
  const since = ({ help }) => help ? new Date(help.opened_at).getTime() : Infinity;
  wanting.sort(({ data: a }, { data: b }) => (b.help?.rank ?? 0) - (a.help?.rank ?? 0) || since(a) - since(b)
    || (a.number ?? 0) - (b.number ?? 0));
  working.sort((a, b) => (a.data.number ?? 0) - (b.data.number ?? 0));
  arrange(attention.querySelector(".cards"), wanting);
  arrange(work, working);
  attention.hidden = wanting.length === 0;
  setText(document.querySelector("#attention-count"), String(wanting.length));
  document.title = (wanting.length ? `(${wanting.length}) ` : "") + document.body.dataset.title;
  document.querySelector("#work-title").hidden = working.length === 0;
  document.querySelector("#no-stations")?.toggleAttribute("hidden", inUse().length > 0);
}

function arrange(parent, wanted) {
  wanted.forEach((card, index) => {
    if (parent.children[index] !== card.element) parent.insertBefore(card.element, parent.children[index] ?? null);
  });
}

function tally() {
  wall.dataset.stations = inUse().length;
  const counts = {};
  for (const { data } of inUse()) {
    const state = data.maintenance || data.connected !== false ? data.state : "offline";
    counts[state] = (counts[state] ?? 0) + 1;
  }
  for (const element of document.querySelectorAll("#tally [data-state]")) {
    const n = counts[element.dataset.state] ?? 0;
    element.hidden = n === 0;
    setText(element.querySelector("span"),
      `${n} ${n > 1 ? STATES[element.dataset.state].many : stateWord(element.dataset.state).toLowerCase()}`);
  }
}

function change(slug, changed) {
  const card = cards.get(slug) ?? make(slug);
  const before = card.data;
  card.data = { ...before, ...changed };
  card.heard = performance.now();
  if (card.data.attention && before.attention === false) {
    card.wantsSince = performance.now();
    setTimeout(place, SETTLED_MS + 20);
  }
  if ("uuid" in changed && before.uuid && changed.uuid !== before.uuid) card.strip.clear();
  if ("step" in changed || "d" in changed) card.strip.add(card.data);
  render(card);
  if (slug === selected) showDriveKeys(card.data.drive);
  if (card.data.archived && slug === selected) select(null);
  if (before.archived !== card.data.archived) return true;
  return before.attention !== card.data.attention || before.severity !== card.data.severity
    || before.help?.id !== card.data.help?.id;
}

live.subscribe(`wall:${lab}`, { subscribe: "wall", lab }, (type, data) => {
  if (type === "snapshot") {
    const present = new Set(data.stations.map((station) => station.slug));
    for (const [slug, card] of cards) if (!present.has(slug)) { card.element.remove(); cards.delete(slug); }
    for (const station of data.stations) change(station.slug, station);
    place();
  } else if (data.card && change(data.card.slug, data.card)) place();
  tally();
  offerRecovery();
  hearCalls(inUse().map((card) => card.data));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-command]");
  if (!button) return;
  button.disabled = true;
  await act(button.closest("[data-station]").dataset.station, button.dataset.command);
  refuseOffline(button);
});

// ---- after a stop of all: back in one act each. Only those that the dialog lists are touched.

const clearAll = document.querySelector("#clear-all"), resumeAll = document.querySelector("#resume-all");
const byNumber = () => inUse().map((card) => card.data).sort((a, b) => (a.number ?? 0) - (b.number ?? 0));
const stoppedOnes = () => byNumber().filter((data) => data.stop_latched);
const pausedOnes = () => byNumber().filter((data) => data.paused && !data.stop_latched && !data.maintenance);

function offerRecovery() {
  const offers = [[clearAll, stoppedOnes(), "Clear all stops"], [resumeAll, pausedOnes(), "Resume all"]];
  for (const [button, found, words] of offers) {
    if (!button) continue;
    button.hidden = found.length === 0;
    setText(button, `${words} (${found.length})…`);
    refuseOffline(button);
  }
}

const nameOf = (slug) => cards.get(slug)?.data.name ?? slug;

async function bringBack(path, body, done) {
  const answer = await postApi(`labs/${lab}/${path}`, body);
  if (!answer.ok) { toast(answer.error, "error"); return; }
  if (answer.done.length) toast(`${done}: ${answer.done.map(nameOf).join(", ")}.`);
  for (const [slug, why] of Object.entries(answer.refused)) toast(`${nameOf(slug)}: ${why}`, "error");
}

clearAll?.addEventListener("click", async () => {
  const found = stoppedOnes();
  const question = "Clear the software stop of these stations? They stay paused until they are resumed. "
    + "Say why it is safe; the reason is kept.";
  const reason = await askReason(question, "Clear these stops", found.map((data) => data.name));
  if (!reason) return;
  await bringBack("clear_stops", { stations: found.map((data) => data.slug), reason }, "The stop is cleared");
});

resumeAll?.addEventListener("click", async () => {
  const found = pausedOnes();
  const label = (data) => data.holder ? `${data.name} (${data.holder} is in control)` : data.name;
  if (await confirmAct("Resume these stations? They may move at once.", "Resume these", found.map(label))) {
    await bringBack("resume", { stations: found.map((data) => data.slug) }, "Resumed");
  }
});

// ---- the selected station: what the keys act on
let selected = null, digits = "", digitAt = 0;

function select(slug) {
  selected = slug;
  for (const [each, card] of cards) card.element.classList.toggle("selected", each === slug);
  const card = cards.get(slug);
  setText(document.querySelector("[data-f=selected]"), card
    ? `${card.data.name} is selected: the keys act on it. Press ? for the list of keys.` : "");
  showDriveKeys(card?.data.drive);
  card?.element.scrollIntoView({ block: "nearest" });
}

const chosen = () => cards.has(selected) ? { ...cards.get(selected).data, slug: selected } : null;
const drive = new Drive(chosen);
listenKeys(chosen, { drive });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
  if (event.key === "Escape") { drive.release(); select(null); return; }
  // Leaving the page would end a lease.
  if (event.key === "b" && selected && live.held.size === 0) {
    location.href = `${root}labs/${lab}/stations/${selected}?rewind=1`;
    return;
  }
  if (!/^[0-9]$/.test(event.key)) return;
  digits = (event.timeStamp - digitAt < 700 ? digits : "") + event.key;
  digitAt = event.timeStamp;
  const find = (typed) => [...cards].find(([, card]) => card.data.number === Number(typed) && !card.data.archived)?.[0];
  const slug = find(digits) ?? find(event.key);
  if (slug) { if (slug !== selected) drive.release(); select(slug); }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-help]");
  if (!button) return;
  const { slug, help } = cards.get(button.closest("[data-station]").dataset.station).data;
  button.disabled = true;
  const answer = await postApi(`labs/${lab}/help/${help.id}/${button.dataset.help}`);
  if (!answer.ok) toast(`${slug}: ${answer.error}`, "error");
  button.disabled = false;
});

for (const element of document.querySelectorAll("article.card")) adopt(element);
live.addEventListener("online", () => { cards.forEach(render); offerRecovery(); });
live.addEventListener("control", () => cards.forEach(render));
setInterval(() => cards.forEach(refreshStale), 1000);
setInterval(() => cards.forEach((card) => { if (card.data.help?.help_by) renderCall(card); }), 1000);

document.addEventListener("keydown", (event) => {
  if (event.key !== "n" || event.ctrlKey || event.metaKey || event.target.matches("input, textarea, select")) return;
  attention.querySelector("button[data-command]:not([hidden])")?.focus();
});
