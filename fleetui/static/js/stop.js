// A software stop from a page: by the socket and by HTTP at once, and again each second until every station has confirmed it.
// While one has not, a banner says which and why; it goes when all have, or when a person closes it.

import { live, postApi } from "./live.js";

const AGAIN_MS = 1000;
const SAID_AFTER_MS = 800;     // without a confirmation by then the page says so
const GIVEN_UP_MS = 4000;      // of one try by HTTP
const SWITCH = "If the robot moves, use its own emergency stop.";
const orders = new Map();      // id -> Order, of those that are not settled

class Order {
  constructor(lab, station, name, toast) {
    Object.assign(this, { lab, station, toast, id: `stop-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}` });
    this.rows = null;          // as the server answered; null: no answer has come
    this.name = name ?? station ?? "all stations";
    this.why = "no answer from the server";
    this.recorded = true;
    orders.set(this.id, this);
    this.done = new Promise((resolve) => { this.resolve = resolve; });
    this.try();
    this.timer = setInterval(() => this.try(), AGAIN_MS);
    setTimeout(() => this.say(), SAID_AFTER_MS);
  }

  async try() {
    live.send({ stop: { id: this.id, ...(this.station ? { station: this.station } : {}) }, lab: this.lab });
    const path = this.station ? `labs/${this.lab}/stations/${this.station}/stop` : `labs/${this.lab}/stop`;
    const answer = await postApi(path, { id: this.id }, AbortSignal.timeout(GIVEN_UP_MS));
    if (answer.stations) this.take(answer);
    else if (!this.rows) { this.why = answer.error; this.say(); }
  }

  take(answer) {
    if (!orders.has(this.id)) return;
    if (answer.error) { this.why = answer.error; this.say(); return; }
    const confirmed = new Set(this.rows?.filter((row) => row.outcome === "confirmed").map((row) => row.station));
    this.rows = answer.stations.map((row) => confirmed.has(row.station) ? { ...row, outcome: "confirmed" } : row);
    this.recorded = answer.recorded;
    if (this.left().length === 0 && this.recorded) this.settle(); else this.say();
  }

  left() { return this.rows.filter((row) => row.outcome !== "confirmed"); }

  // What a person reads: never that all is well while one station has not said so.
  words() {
    if (!this.rows) return `The stop of ${this.name} has not been delivered: ${this.why.replace(/[.]$/, "")}. Trying again. ${SWITCH}`;
    const said = this.left().map((row) => {
      const silent = row.silent_s === null ? "no message ever" : `silent for ${Math.round(row.silent_s)} s`;
      return row.outcome === "told" ? `${row.name} was told and has not answered (${silent})` : `${row.name} can't be reached (${silent})`;
    });
    if (!said.length) return `Stopped: every station confirmed it. It is not recorded yet, because the database does not answer. Trying again.`;
    const kept = this.left().every((row) => row.outcome === "unreachable") && this.recorded;
    const rest = kept ? "A station that can't be reached holds still by itself, and gets the stop when it returns." : `Trying again. ${SWITCH}`;
    return `Not confirmed: ${said.join("; ")}. ${rest}`;
  }

  say() { if (orders.has(this.id)) show(); }

  settle() {
    clearInterval(this.timer);
    orders.delete(this.id);
    show();
    const n = this.rows.length;
    if (!this.station) this.toast(`Software stop: ${n === 1 ? "the station" : `all ${n} stations`} confirmed it. Clear them on the wall, with a reason.`);
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

document.querySelector("#unconfirmed button").addEventListener("click", () => { for (const order of [...orders.values()]) order.drop(); show(); });
live.addEventListener("stop_done", ({ detail }) => orders.get(detail.id)?.take(detail));

// Stops one station, or all of the lab where `station` is null. Resolves to whether every station confirmed it.
export function giveStop(lab, station, name, toast) {
  for (const order of orders.values()) if (order.lab === lab && order.station === station) { order.try(); return order.done; }
  return new Order(lab, station, name, toast).done;
}
