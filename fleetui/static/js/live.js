// The page's one socket to the server: topics (snapshot, then deltas with a sequence number), camera frames (binary,
// latest only) and commands to stations. It reconnects by itself; while it is down, <body data-offline> marks
// everything as stale. A station that this page took control of hears a heartbeat every 400 ms; when the page is gone,
// so are they, and it holds still.

import { forgetServerTime, hearServerTime, knowsSteadyClock, root, serverNow, steadyNow } from "./format.js";

const COMMAND_TIMEOUT_MS = 8000;
const HEARTBEAT_EVERY_MS = 400;
const DRIVE_TTL_MS = 300;
const STALE_FRAME_MS = 3000;
const FIRST_CONNECTION_MS = 2000;
// the server says something every 2 s: after so long nobody is there, and 5 s are not over
const SILENT_MS = 4500;
const ANSWER_MS = 2000;        // and it answers at once when a page asks whether it is there

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const once = (target, name) => new Promise((done) => target.addEventListener(name, done, { once: true }));

class Live extends EventTarget {
  constructor() {
    super();
    this.topics = new Map();     // topic -> {message, apply, seq}
    this.feeds = new Map();      // station slug/number of the camera -> {lab, station, camera, size, fps, draw}
    this.commands = new Map();   // id -> {resolve, timer}
    this.held = new Map();       // station slug that this page controls -> timer of its heartbeats
    this.lostAt = null;
    this.heardAt = 0;            // when the socket was opened or last said something, by performance.now()
    this.nextCommand = 1;
    this.delay = 400;
    this.socket = null;
  }

  connect() {
    if (this.socket) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = this.socket = new WebSocket(`${scheme}://${location.host}${root}ws/live`);
    this.heardAt = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.delay = 400;
      this.heardAt = performance.now();
      forgetServerTime();
      this.setOnline(true);
      for (const topic of this.topics.values()) { topic.seq = null; this.send(topic.message); }
      for (const feed of this.feeds.values()) this.sendFeed(feed);
    };
    socket.onmessage = (event) => {
      this.heardAt = performance.now();
      if (typeof event.data === "string") this.receive(JSON.parse(event.data)); else this.receiveFrame(event.data);
    };
    socket.onclose = (event) => {
      if (event.code === 4403) return location.reload(); // logged out, or no member any more: the page says which
      this.lose();
    };
  }

  // The connection is gone, whether the browser knows that yet or not: a half-open one would look alive for minutes.
  lose() {
    const socket = this.socket;
    if (!socket) return;
    this.socket = socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close?.();
    for (const station of [...this.held.keys()]) {
      this.control({ station, held: false, why: "The connection broke. Nobody drives it now, and it holds still." });
    }
    this.lostAt ??= this.heardAt;   // it may have been silent for a while before that was clear
    this.setOnline(false);
    setTimeout(() => this.connect(), this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(this.delay * 1.8, 8000);
  }

  get silentMs() { return performance.now() - this.heardAt; }

  watchSilence() { if (this.socket && this.silentMs > SILENT_MS) this.lose(); }

  // The page was away, or the network changed: ask at once whether the line still stands.
  look() {
    if (!this.online) return;
    const asked = performance.now(), socket = this.socket;
    this.send({ alive: true, ask: true });
    setTimeout(() => { if (this.socket === socket && this.heardAt < asked) this.lose(); }, ANSWER_MS);
  }

  setOnline(online) {
    if (online) delete document.body.dataset.offline; else document.body.dataset.offline = "";
    document.querySelector("#connection")?.toggleAttribute("hidden", online);
    this.lostAt = online ? null : this.lostAt ?? performance.now();
    this.sayLost();
    this.dispatchEvent(new CustomEvent("online", { detail: online }));
  }

  sayLost() {
    const since = document.querySelector("#connection [data-f=lost]");
    if (since && this.lostAt !== null) {
      since.textContent = `for ${Math.round((performance.now() - this.lostAt) / 1000)} s`;
    }
  }

  get online() { return this.socket?.readyState === WebSocket.OPEN; }

  send(message) { if (this.online) this.socket.send(JSON.stringify(message)); }

  // topic: as the server names it, e.g. "wall:LAB"; message: {subscribe, lab, ...}; apply(type, data) gets snapshots
  // and deltas.
  subscribe(topic, message, apply) {
    this.topics.set(topic, { message, apply, seq: null });
    this.send(message);
    this.connect();
  }

  // camera: its name, "" for the first; number: among the cameras of the body
  watchFrames(feed, number) {
    this.feeds.set(`${feed.station}/${number}`, feed);
    this.sendFeed(feed);
    this.connect();
  }

  sendFeed({ lab, station, camera, fps, size }) {
    this.send({ subscribe: "frames", lab, station, camera, fps, size });
  }

  dropFrames({ lab, station, camera }, number) {
    if (this.feeds.delete(`${station}/${number}`)) this.send({ unsubscribe: "frames", lab, station, camera });
  }

  // Resolves to {ok, error}. A command is never queued while the socket is down: acting late is worse than not acting.
  // A page that has just opened is granted the moment that its socket takes. A stop goes its own way: stop.js.
  async command(lab, station, name, args = {}, ttl_ms = 3000) {
    const asked = performance.now();
    if (!this.online && this.lostAt === null) await Promise.race([once(this, "online"), pause(FIRST_CONNECTION_MS)]);
    ttl_ms = Math.max(0, ttl_ms - Math.round(performance.now() - asked));
    if (!this.online) {
      return { ok: false, error: "Connection lost: the command was not sent. It reconnects by itself; try again." };
    }
    const id = `${Date.now().toString(36)}-${this.nextCommand++}`;
    this.send({ command: { id, lab, station, name, args, ttl_ms, ...this.stamp() } });
    return new Promise((resolve) => {
      const error = `${station} did not answer within ${COMMAND_TIMEOUT_MS / 1000} s. Is its process running?`;
      const timer = setTimeout(() => this.finish(id, { ok: false, error }), COMMAND_TIMEOUT_MS);
      this.commands.set(id, { resolve, timer });
    });
  }

  // What waits somewhere on its way is known by this as too old.
  stamp() { return knowsSteadyClock() ? { sent_at: steadyNow() } : {}; }

  // Driving is a stream: it is sent and forgotten, the station's dead-man covers a lost one.
  // axes: numbers from -1 to 1 by the names of the body's drive axes; all 0: let go
  drive(lab, station, axes) {
    this.send({ command: { id: `drive-${Date.now().toString(36)}-${this.nextCommand++}`, lab, station, name: "drive",
      args: { axes }, ttl_ms: DRIVE_TTL_MS, ...this.stamp() } });
  }

  // The server gave this page control of a station, or took it away.
  control({ lab, station, held, why }) {
    clearInterval(this.held.get(station));
    this.held.delete(station);
    const renew = () => this.send({ control_heartbeat: { lab, station, ...this.stamp() } });
    if (held) { renew(); this.held.set(station, setInterval(renew, HEARTBEAT_EVERY_MS)); }
    this.dispatchEvent(new CustomEvent("control", { detail: { station, held, why } }));
  }

  holds(station) { return this.held.has(station); }

  finish(id, result) {
    const waiting = this.commands.get(id);
    if (!waiting) return;
    clearTimeout(waiting.timer);
    this.commands.delete(id);
    waiting.resolve(result);
  }

  receive(message) {
    hearServerTime(message.heartbeat ?? message.control_heartbeat ?? message);
    if (message.heartbeat) return this.send({ alive: true });
    if (message.control_heartbeat) return;
    if (message.stop_done) return this.dispatchEvent(new CustomEvent("stop_done", { detail: message.stop_done }));
    if (message.control) return this.control(message.control);
    if (message.command_done) return this.finish(message.command_done.id, message.command_done);
    if (message.error) return this.dispatchEvent(new CustomEvent("refused", { detail: message }));
    const topic = this.topics.get(message.topic);
    if (!topic) return;
    if (message.type === "delta") {
      if (topic.seq === null) return;                       // deltas before the snapshot are inside it
      if (message.seq <= topic.seq) return;
      if (message.seq !== topic.seq + 1) {                  // a gap: ask for the whole again
        topic.seq = null;
        return this.send(topic.message);
      }
    }
    topic.seq = message.seq;
    topic.apply(message.type, message.data);
  }

  // uint16 length of the slug, slug, uint32 step, uint32 episode, float64 unix time (all big endian), the camera's
  // number in one byte unless it is the first, JPEG, which begins with 255
  receiveFrame(buffer) {
    const view = new DataView(buffer);
    const length = view.getUint16(0);
    const station = new TextDecoder().decode(new Uint8Array(buffer, 2, length));
    const at = 2 + length;
    const header = { step: view.getUint32(at), episode: view.getUint32(at + 4), time: view.getFloat64(at + 8) };
    const first = view.getUint8(at + 16) === 255, number = first ? 0 : view.getUint8(at + 16);
    const jpeg = new Uint8Array(buffer, at + (first ? 16 : 17));
    this.feeds.get(`${station}/${number}`)?.draw(new Blob([jpeg], { type: "image/jpeg" }), header);
  }
}

export const live = new Live();
setInterval(() => live.sayLost(), 1000);
setInterval(() => live.watchSilence(), 250);
document.addEventListener("visibilitychange", () => { if (!document.hidden) live.look(); });
window.addEventListener("online", () => live.look());
window.addEventListener("pageshow", () => live.look());

export function csrfToken() {
  const name = `csrftoken${root.slice(0, -1).replaceAll("/", "_")}=`;   // as settings.py calls it
  return document.cookie.split("; ").find((each) => each.startsWith(name))?.slice(name.length) ?? "";
}

// A POST to the HTTP API, for what needs no socket. {ok, error, ...what the server answered}
export async function postApi(path, body = {}, signal = undefined) {
  const token = csrfToken();
  try {
    const answer = await fetch(`${root}api/${path}`, {
      method: "POST", headers: { "Content-Type": "application/json", "X-CSRFToken": token },
      body: JSON.stringify(body), signal,
    });
    const replied = await answer.json().catch(() => ({}));
    return { ...replied, ok: answer.ok, status: answer.status,
      error: answer.ok ? "" : replied.detail || `The server answered ${answer.status}.` };
  } catch {
    return { ok: false, error: "The server can't be reached. If a robot must stop, use its own emergency stop." };
  }
}

// A feed pulls frames only while its element is on screen and its tab is shown.
const feedOf = new WeakMap();
const shown = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const feed = feedOf.get(entry.target);
    if (entry.isIntersecting) {
      shown.add(feed);
      if (!document.hidden) feed.start();
    } else { shown.delete(feed); feed.stop(); }
  }
}, { rootMargin: "60px" });
document.addEventListener("visibilitychange", () => {
  for (const feed of shown) if (document.hidden) feed.stop(); else feed.start();
});

// How long no picture has come for the element.
export const silentMs = (element) => performance.now() - (feedOf.get(element)?.drawnAt ?? -Infinity);

export function showFrames(element, lab, station,
  { size = "small", fps = 5, camera = "", number = 0, onFrame = null } = {}) {
  const canvas = element.querySelector("canvas");
  const context = canvas.getContext("2d");
  const age = document.createElement("span");
  age.className = "frame-age";
  element.append(age);
  let busy = false, running = false, taken = null, since = 0;
  // An old picture looks like a still robot: it is greyed and says how old it is.
  function refreshAge() {
    const shownFor = performance.now() - since, old = taken === null ? shownFor : serverNow() - taken;
    const stale = element.classList.contains("has-frame") && running && shownFor > STALE_FRAME_MS
      && old > STALE_FRAME_MS;
    element.classList.toggle("stale-frame", stale);
    age.textContent = stale ? `Not live: this picture is ${Math.round(old / 1000)} s old` : "";
  }
  const ageing = setInterval(refreshAge, 500);
  async function draw(blob, header) {
    // decoding one already: this one is dropped, the next is newer
    if (busy) return;
    busy = true;
    try {
      const bitmap = await createImageBitmap(blob);
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
      }
      context.drawImage(bitmap, 0, 0);
      bitmap.close();
      element.classList.add("has-frame");
      element.dataset.frames = Number(element.dataset.frames || 0) + 1;
      taken = 1000 * header.time;
      feed.drawnAt = performance.now();
      refreshAge();
      onFrame?.(header);
    } catch { /* a torn picture: the next one replaces it */ } finally { busy = false; }
  }
  const wanted = { lab, station, camera, size, fps, draw };
  const feed = {
    drawnAt: -Infinity,
    start() {
      if (!running) { running = true; since = performance.now(); live.watchFrames(wanted, number); }
    },
    stop() { if (running) { running = false; live.dropFrames(wanted, number); } },
  };
  feedOf.set(element, feed);
  observer.observe(element);
  return () => { clearInterval(ageing); age.remove(); observer.unobserve(element); shown.delete(feed); feed.stop(); };
}
