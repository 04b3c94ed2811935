// A software stop from a page: by the socket and by HTTP at once, and again each second, for a minute, until every
// station has confirmed it. While one has not, a banner says which and why; it goes when all have, or when a person
// closes it. Each press is a stop of its own: what was cleared meanwhile stops again.

import { live, postApi } from "./live.js";

const AGAIN_MS = 1000;
const TRIED_FOR_MS = 60_000;   // a tab that somebody forgot must not stop the fleet again hours later
const SAID_AFTER_MS = 800;     // without a confirmation by then the page says so
const GIVEN_UP_MS = 4000;      // of one try by HTTP
const REFUSED = [401, 403, 404, 409, 422];   // trying again would change nothing
const SWITCH = "If the robot moves, use its own emergency stop.";
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
    this.complete = true;      // whether the rows are all stations that there are
    this.pressed = performance.now();
    orders.set(this.id, this);
    this.done = new Promise((resolve) => { this.resolve = resolve; });
    this.try();
    this.timer = setInterval(() => this.tryAgain(), AGAIN_MS);
    setTimeout(() => this.say(), SAID_AFTER_MS);
  }

  get over() { return performance.now() - this.pressed > TRIED_FOR_MS; }

  tryAgain() {
    if (this.over) { clearInterval(this.timer); this.say(); } else if (!this.kept()) this.try();
  }

  // Told or not, it lasts: what is left are stations that are away, and it stands in the database for their return.
  kept() { return Boolean(this.rows) && this.recorded && this.left().every((row) => row.outcome === "unreachable"); }

  async try() {
    live.send({ stop: { id: this.id, ...(this.station ? { station: this.station } : {}) }, lab: this.lab });
    const path = `labs/${this.lab}/${this.station ? `stations/${this.station}/` : ""}stop`;
    const answer = await postApi(path, { id: this.id }, AbortSignal.timeout(GIVEN_UP_MS));
    if (answer.stations) this.take(answer);
    else this.takeRefusal(answer.status ? answer.error : "the server can't be reached", answer.status);
  }

  take(answer) {
    if (!orders.has(this.id)) return;
    if (answer.error) { this.takeRefusal(answer.error, answer.status); return; }
    const before = new Map((this.rows ?? []).map((row) => [row.station, row]));
    for (const row of answer.stations) {
      const known = before.get(row.station);
      const stands = known && !isLeft(known) && row.outcome !== "cleared";   // by the other way it may be known later
      before.set(row.station, stands ? { ...row, outcome: known.outcome } : row);
    }
    this.rows = [...before.values()];
    this.recorded = answer.recorded;
    this.complete = answer.complete;
    if (this.left().length === 0 && this.recorded) this.settle(); else this.say();
  }

  takeRefusal(error, status) {
    if (!orders.has(this.id)) return;
    if (REFUSED.includes(status)) {
      if (!this.rows) this.toast(`The stop of ${this.name} was refused: ${error}`, "error");
      this.drop();
      show();
    } else if (!this.rows) { this.why = error; this.say(); }
  }

  left() { return this.rows.filter(isLeft); }

  count(outcome) { return this.rows.filter((row) => row.outcome === outcome).length; }

  // What a person reads: never that all is well while one station has not said so.
  words() {
    const again = this.over ? `Not tried any more: press stop again. ${SWITCH}` : `Trying again. ${SWITCH}`;
    if (!this.rows) return `The stop of ${this.name} has not been delivered: ${this.why.replace(/[.]$/, "")}. ${again}`;
    const missing = this.left().map((row) => {
      const silent = row.silent_s === null ? "not heard of" : `silent for ${Math.round(row.silent_s)} s`;
      const how = row.outcome === "told" ? "was told and has not answered" : "can't be reached";
      return `${row.name} ${how} (${silent})`;
    });
    const alone = "A station that can't be reached holds still by itself, and gets the stop when it returns.";
    if (this.kept()) return `Not confirmed: ${missing.join("; ")}. ${alone}`;
    if (this.recorded) return `Not confirmed: ${missing.join("; ")}. ${again}`;
    const n = this.count("confirmed");
    const others = this.complete ? "" : "; which other stations there are is not known";
    const now = [n ? `${n} confirmed it` : "No station confirmed it", ...missing].join("; ") + others;
    return `${now}. It is not recorded yet: the database does not take it now. ${again}`;
  }

  say() { if (orders.has(this.id)) show(); }

  settle() {
    clearInterval(this.timer);
    orders.delete(this.id);
    show();
    if (!this.station) {
      const n = this.count("confirmed"), cleared = this.count("cleared");
      const who = n === 1 ? "one station" : cleared ? `${n} stations` : `all ${n} stations`;
      const rest = cleared ? ` At ${cleared} it was cleared since.` : "";
      this.toast(`Software stop: ${who} confirmed it.${rest} Clear it on the wall, with a reason.`);
    }
    this.resolve(true);
  }

  drop() { clearInterval(this.timer); orders.delete(this.id); this.resolve(false); }
}

function show() {
  const banner = document.querySelector("#unconfirmed"), words = banner.querySelector("span");
  const message = [...orders.values()].map((order) => order.words()).join(" ");
  banner.hidden = !message;
  if (words.textContent !== message) words.textContent = message;
}

document.querySelector("#unconfirmed button").addEventListener("click", () => {
  for (const order of [...orders.values()]) order.drop();
  show();
});
live.addEventListener("stop_done", ({ detail }) => orders.get(detail.id)?.take(detail));

// Stops one station, or all of the lab where `station` is null. Resolves to whether every station confirmed it.
export function giveStop(lab, station, name, toast) {
  const isOlder = (order) => order.lab === lab && (station === null || order.station === station);
  const older = [...orders.values()].filter(isOlder);
  const order = new Order(lab, station, name, toast);
  for (const each of older) each.drop();
  return order.done;
}
