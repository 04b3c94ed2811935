// Pages that show a secret once: copy it, and see the station that it is for turn up by itself.

import "./copying.js";
import { live } from "./live.js";
import { lab, page } from "./app.js";
import { setState } from "./format.js";

const station = page.waitsFor;
if (station) {
  let card = {};
  live.subscribe(`station:${lab}/${station}`, { subscribe: "station", lab, station }, (type, change) => {
    const changed = change.card ?? change;
    card = type === "snapshot" ? { ...changed } : { ...card, ...changed };
    // an old token's connection is not the one that is waited for
    const before = page.since ? Date.parse(page.since) : 0;
    const since = card.connected_since ? Date.parse(card.connected_since) : 0;
    if (!card.connected || since <= before) return;
    setState(document.querySelector("#arrival .state"), "ready", `${card.name} is connected`);
    document.querySelector("#open-station").classList.add("primary");
  });
}
