// One station: watch it large, and act on it. What the acts, keys and driving are is in control.js.

import { live, showFrames, silentMs } from "./live.js";
import { Strip } from "./strip.js";
import { lab, page, toast } from "./app.js";
import "./rewind.js";
import { driveWords } from "./axes.js";
import { act, addToDataset, CONNECTION_LOST, giveAnswer, label, listenKeys, mayAct } from "./control.js";
import { Drive, DriveButtons, showDriveKeys } from "./drive.js";
import { Marks } from "./marks.js";
import { showSignals } from "./signals.js";
import { ago, count, isNumber, number, percent, refreshTimes, root, serverNow, setState, setText, STATES,
  stateWord } from "./format.js";

const slug = page.station;
const mayAdd = page.mayAdd === "1";
const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const feed = $("#feed"), feeds = [...document.querySelectorAll(".feed[data-camera]")];
const strip = new Strip($("#strip"), { large: true });
let data = { slug, ...JSON.parse($("#described").textContent) }, heardAt = null;
const marks = feeds.filter((each) => data.planes?.[each.dataset.camera]).map((each) => new Marks(each,
  data.planes[each.dataset.camera], mayAct && ((which, x, y) => act(slug, "move_keypoint", { number: which, x, y }))));
const current = () => ({ ...data, slug });
const drive = new Drive(current);
const driveButtons = $("#axes") && new DriveButtons($("#axes"), drive);
const PHONE = matchMedia("(max-width: 720px)");  // as in fleetui.css
const CAMERA_GONE_MS = 1000;      // others of the station may go on

for (const each of feeds) showFrames(each, lab, slug,
  { size: "large", fps: 10, camera: each.dataset.camera, number: Number(each.dataset.number),
    onFrame: each === feed ? (header) => setText(field("frame-time"), `frame of step ${header.step}`) : null });

// A phone has room for one: what is not chosen is not on screen, and so not asked for.
for (const button of document.querySelectorAll("[data-watch]")) button.addEventListener("click", () => {
  for (const each of feeds) each.classList.toggle("unchosen", each.dataset.number !== button.dataset.watch);
  for (const each of document.querySelectorAll("[data-watch]")) {
    each.setAttribute("aria-pressed", String(each === button));
  }
});

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
  showSignals(field("signals"), data.signals);
  for (const each of marks) each.show(data.marks ?? [], data.marks_by);
  setText(field("marks-hint"), !data.marks?.length ? "" : data.marks_by === "human" ? "keypoints: one was moved by hand"
    : `keypoints of this attempt${mayAct ? "; drag one to correct it" : ""}`);
  setText(field("episodes"), count(data.episodes));
  setText(field("threshold"),
    isNumber(data.threshold) ? `success is detected at d ≤ ${number(data.threshold, 1)}`
      : state === "practising" && isNumber(data.version) ? "nothing judges: its method has no reward model" : "");
  setText(field("task"), data.task || "none");
  const inMemory = data.in_memory ? `, ${count(data.in_memory)} of them in memory: its disk is full` : "";
  setText(field("unsent"), isNumber(data.unsent) ? `${count(data.unsent)}${inMemory}`
    : "unknown until it sends a message");
  const lost = data.lost ? `; ${count(data.lost)} lost because there was no room` : "";
  setText(field("refused"), isNumber(data.refused) ? `${count(data.refused)}${lost}`
    : "unknown until it sends a message");
  setText(field("seen"), data.connected ? "connected" : data.last_seen ? `last seen ${ago(new Date(data.last_seen))}`
    : "never seen yet");

  for (const each of feeds) {
    setText(each.querySelector(".note"), data.camera_error || "waiting for a picture");
    if (data.camera_error && silentMs(each) > CAMERA_GONE_MS) each.classList.remove("has-frame");
  }
  field("camera-error").hidden = !data.camera_error;
  setText(field("camera-error"), data.camera_error && `${data.camera_error}. It is tried again every few seconds, `
    + "and practice goes on. Check its cable and the program that reads it.");
  showHeard();

  const needs = $("#needs");
  // What to do is said in the server's words, by the kind of its need; what is missing from them is the state's own.
  const words = data.help?.advice ?? "";
  const advice = { needs_person: words, stopped: words,
    overridden: live.holds(slug) || data.holder ? null
      : words || "Nobody drives it now. Take over, or hand it back to the policy.",
    offline: "Its program is not connected. The first simulated stations start with the fleet, any other by the "
      + "command that its token came with; a new token shows it again." }[state];
  needs.hidden = advice === undefined || advice === null;
  needs.dataset.state = state;
  setText(field("need"), data.reason || stateWord(state));
  setText(field("need-advice"), advice ?? "");

  const overridden = state === "overridden", mine = live.holds(slug);
  const offline = "offline" in document.body.dataset;
  const flat = data.drive.includes("x") || data.drive.includes("y");
  feed.classList.toggle("drivable", mine && overridden && !data.device && flat);
  setText(field("drive-hint"), !overridden ? "" : data.reason || (mine ? driveWords(data)
    : data.holder ? `${data.holder} is in control.` : "Nobody drives it now. Take over or hand back."));
  const byDevice = data.device ? `, by ${data.teleoperator}` : "";
  setText(field("holder"), !overridden ? "" : mine ? `you are in control${byDevice}`
    : data.holder ? `${data.holder} is in control${byDevice}` : "nobody is in control");
  if (!drive.may) drive.release();
  if (driveButtons) {
    driveButtons.show(data.drive);
    $("#axes").hidden = data.device;
    const driving = $("#drive"), shown = !driving.hidden;
    driving.hidden = !(mine && overridden) || !(data.teleoperator || $("#axes").childElementCount);
    // On a phone the stop is before what lies lower, and a thumb on these buttons scrolls nothing.
    if (!shown && !driving.hidden && PHONE.matches) driving.scrollIntoView({ block: "nearest" });
    const device = $("#teleoperate");
    device.hidden = !data.teleoperator;
    setText(device, data.device ? "Drive from this page" : `Drive by its own device: ${data.teleoperator}`);
    showDriveKeys(data.drive);
  }
  if (mayAct) {
    // Why an act can't be done now is said where the pointer rests, and the one reason that concerns all of them in
    // words.
    const others = data.holder && !mine ? `${data.holder} is in control; ask for a hand-back first` : "";
    const away = offline ? CONNECTION_LOST : state === "offline" ? "The station is offline" : "";
    const can = (name, why) => {
      const button = $(`[data-command="${name}"]`);
      if (button) { button.disabled = Boolean(why); button.title = why; }
    };
    const stopped = state === "stopped" ? "Clear the stop first" : "";
    can("reset", away || others || stopped || (overridden ? "Hand back first" : ""));
    can("override", away || others || stopped || (mine && overridden ? "You are in control" : ""));
    can("hand_back", away || others || (overridden ? "" : "Nobody has taken control"));
    can("end_episode", away || others || (STATES[state]?.moved_by === "policy" ? "" : "No episode is under way"));
    can("clear_stop", offline ? CONNECTION_LOST : "");
    setText($('[data-command="override"] span'), overridden && !mine && !data.holder ? "Take over" : "Override");
    setText(field("acts-why"), away ? `${away}${offline ? ", except a stop" : ""}.`
      : others ? `${others}. Anybody can stop it.` : "");
    $("#clear-stop").hidden = !(state === "stopped" || data.stop_latched);
    $("#stop").hidden = state === "stopped";   // not by the latch alone: it may have missed it, and move
    // One primary act at a time: the one that this state asks for.
    $('[data-command="reset"]').classList.toggle("primary", state === "needs_person");
    $('[data-command="hand_back"]').classList.toggle("primary", overridden);
    const pause = $("#pause");
    pause.dataset.command = state === "paused" ? "resume" : "pause";
    pause.querySelector("use").setAttribute("href", state === "paused" ? "#i-play" : "#i-pause");
    setText(pause.querySelector("span"), state === "paused" ? "Resume" : "Pause");
    pause.title = away || others || stopped || (data.maintenance ? "It is in maintenance: end that first." : "");
    pause.disabled = Boolean(pause.title);
    pause.classList.toggle("primary", state === "paused");
    for (const button of document.querySelectorAll("[data-speed]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === data.speed));
      button.title = offline ? CONNECTION_LOST : others;
      button.disabled = Boolean(button.title);
    }
  }
}

// What the page said when it was loaded grows old, though the station speaks all the time.
function showHeard() {
  const place = field("heard");
  if (heardAt === null || !place) return;
  const time = place.querySelector("time") ?? document.createElement("time");
  time.dateTime = new Date(heardAt).toISOString();
  place.replaceChildren(time);
  refreshTimes(place);
}

const LABELS = { true: "true success", false: "true failure", null: "unknown" };

function addRecent(recent) {
  const list = $("#recent");
  if (!list || !recent) return;
  list.replaceChildren(...recent.slice(0, 8).map((episode) => {
    const row = document.createElement("li");
    row.className = "recent";
    const link = document.createElement("a");
    link.href = `${root}labs/${lab}/episodes/${episode.uuid}`;
    link.textContent = episode.instruction || "episode";
    const rest = document.createElement("span");
    rest.className = "muted small";
    const steps = `${episode.steps ?? "?"} step${episode.steps === 1 ? "" : "s"}`;
    const ending = (episode.ending ?? "").replaceAll("_", " ");
    rest.textContent = `${ending} · ${steps} · ${LABELS[episode.true_success] ?? "unknown"}`;
    const acts = document.createElement("span");
    acts.className = "row";
    const add = (text, pressed, does) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.textContent = text;
      if (pressed !== null) button.setAttribute("aria-pressed", String(pressed));
      button.addEventListener("click", () => does(button));
      acts.append(button);
      return button;
    };
    if (mayAct) for (const [text, value] of [["Success", true], ["Failure", false]]) {
      add(text, episode.true_success === value,
        () => label(episode.uuid, value, `“${episode.instruction}”`, readRecent));
    }
    if (mayAct && episode.question) {
      const said = episode.labels[episode.asks]?.value;
      const question = document.createElement("strong");
      question.textContent = episode.question;
      acts.append(question);
      for (const [text, value] of [["Yes", true], ["No", false]]) {
        const pressed = said !== undefined && Boolean(said) === value;
        add(text, pressed, () => giveAnswer(episode.uuid, value, readRecent));
      }
    }
    if (mayAdd && episode.purpose === "correction") {
      const button = add(episode.dataset ? "In a dataset" : "Add to a dataset", null,
        (it) => addToDataset(episode.uuid, it));
      button.disabled = Boolean(episode.dataset);
    }
    row.append(link, rest, acts);
    return row;
  }));
  $("#no-recent").hidden = recent.length > 0;
}

async function readRecent() {
  const answer = await fetch(`${root}api/labs/${lab}/episodes?station=${slug}&limit=8`).catch(() => null);
  if (answer?.ok) addRecent((await answer.json()).items);
}

live.subscribe(`station:${lab}/${slug}`, { subscribe: "station", lab, station: slug }, (type, change) => {
  const before = data;
  const changed = change.card ?? change;
  data = type === "snapshot" ? { ...changed } : { ...data, ...changed };
  if (type === "snapshot" && data.last_seen) heardAt = Date.parse(data.last_seen);
  if (type === "delta" && "sent_at" in changed) heardAt = serverNow();
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
live.addEventListener("control", render);
setInterval(render, 5000);

// ---- acts
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-command]");
  if (!button) return;
  const name = button.dataset.command;
  if (name === "speed") {
    if (await act(slug, "speed", { value: Number(button.dataset.speed) })) {
      data.speed = Number(button.dataset.speed);
      render();
    }
    return;
  }
  if (name === "teleoperate") {
    drive.release();
    await act(slug, name, { on: !data.device });
    return;
  }
  if (await act(slug, name) && name === "reset") toast(`${data.name}: the reset is recorded.`);
});

function drawStick(pointer) {
  const stick = feed.querySelector(".stick"), line = stick.querySelector("line"), dot = stick.querySelector("circle");
  stick.toggleAttribute("hidden", !pointer);
  if (!pointer) return;
  line.setAttribute("x1", pointer.x); line.setAttribute("y1", pointer.y);
  line.setAttribute("x2", pointer.x + pointer.dx); line.setAttribute("y2", pointer.y + pointer.dy);
  dot.setAttribute("cx", pointer.x); dot.setAttribute("cy", pointer.y);
}
drive.holdPicture(feed, drawStick);
listenKeys(current, { drive, labelled: readRecent });
driveButtons?.show(data.drive);
showDriveKeys(data.drive);

refreshTimes();
