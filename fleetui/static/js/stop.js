// A software stop from a page: by the socket and by HTTP at once, and again each second until every station has confirmed
// it. While one has not, a banner says which and why; it goes when all have, or when a person closes it.

import { live, postApi } from "./live.js";

const AGAIN_MS = 1000;
const KEPT_AGAIN_MS = 5000;    // where nobody is left but stations that get it when they return
const SAID_AFTER_MS = 800;     // without a confirmation by then the page says so
const GIVEN_UP_MS = 4000;      // of one try by HTTP
const SWITCH = "If it moves, use its own switch.";
const orders = new Map();      // id -> Order, of those that are not settled

const isLeft = (row) => row.outcome !== "confirmed" && row.outcome !== "cleared";

class Order {
  constructor(lab, station, name, toast) {
    Object.assign(this, { lab, station, toast });
    this.id = `stop-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    this.rows = null;          // as the server answered; null: no answer has come
    this.name = name ?? station ?? "all stations";
    this.why = "no answer from the server";
    this.recorded = true;
    orders.set(this.id, this);
    this.done = new Promise((resolve) => { this.resolve = resolve; });
    this.try();
    this.tried = performance.now();
    this.timer = setInterval(() => this.tryAgain(), AGAIN_MS);
    setTimeout(() => this.say(), SAID_AFTER_MS);
  }

  tryAgain() { if (!this.kept() || performance.now() - this.tried >= KEPT_AGAIN_MS) this.try(); }

  // Told or not, it lasts: what is left are stations that are away, and it stands in the database for their return.
  kept() { return Boolean(this.rows) && this.recorded && this.left().every((row) => row.outcome === "unreachable"); }

  async try() {
    this.tried = performance.now();
    live.send({ stop: { id: this.id, ...(this.station ? { station: this.station } : {}) }, lab: this.lab });
    const path = `labs/${this.lab}/${this.station ? `stations/${this.station}/` : ""}stop`;
    const answer = await postApi(path, { id: this.id }, AbortSignal.timeout(GIVEN_UP_MS));
    if (answer.stations) this.take(answer);
    else if (!this.rows) { this.why = answer.error; this.say(); }
  }

  take(answer) {
    if (!orders.has(this.id)) return;
    if (answer.error) { this.why = answer.error; this.say(); return; }
    const confirmed = new Set(this.rows?.filter((row) => !isLeft(row)).map((row) => row.station));
    this.rows = answer.stations.map((row) => confirmed.has(row.station) ? { ...row, outcome: "confirmed" } : row);
    this.recorded = answer.recorded;
    if (this.left().length === 0 && this.recorded) this.settle(); else this.say();
  }

  left() { return this.rows.filter(isLeft); }

  // What a person reads: never that all is well while one station has not said so.
  words() {
    const why = this.why.replace(/[.]$/, "");
    if (!this.rows) return `The stop of ${this.name} is not delivered: ${why}. Trying again. ${SWITCH}`;
    const said = this.left().map((row) => {
      const silent = row.silent_s === null ? "never heard of" : `silent for ${Math.round(row.silent_s)} s`;
      const how = row.outcome === "told" ? "was told and has not answered" : "can't be reached";
      return `${row.name} ${how} (${silent})`;
    });
    if (!said.length) {
      return "Stopped: every station confirmed it. It is not recorded yet: the database does not take it. Trying again.";
    }
    const alone = "A station that can't be reached holds still by itself, and gets the stop when it returns.";
    const rest = this.kept() ? alone : `Trying again. ${SWITCH}`;
    return `Not confirmed: ${said.join("; ")}. ${rest}`;
  }

  say() { if (orders.has(this.id)) show(); }

  settle() {
    clearInterval(this.timer);
    orders.delete(this.id);
    show();
    const n = this.rows.length;
    const who = n === 1 ? "the station" : `all ${n} stations`;
    if (!this.station) this.toast(`Software stop: ${who} confirmed it. Clear them on the wall, with a reason.`);
    this.resolve(true);
  }

  drop() { clearInterval(this.timer); orders.delete(this.id); this.resolve(false); }
}

function show() {
  const banner = document.querySelector("#unconfirmed"), words = banner.querySelector("span");
  const said = [...orders.values()].map((order) => order.words()).join(" ");
  banner.hidden = !said;
  if (words.textContent !== said) words.textContent = said;
}

document.querySelector("#unconfirmed button").addEventListener("click", () => {
  for (const order of [...orders.values()]) order.drop();
  show();
});
live.addEventListener("stop_done", ({ detail }) => orders.get(detail.id)?.take(detail));

// Stops one station, or all of the lab where `station` is null. Resolves to whether every station confirmed it.
export function giveStop(lab, station, name, toast) {
  for (const order of orders.values()) {
    if (order.lab === lab && order.station === station) { order.try(); return order.done; }
  }
  return new Order(lab, station, name, toast).done;
}
