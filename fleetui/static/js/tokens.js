// Pages that show a secret once: copy it, and see the station that it is for turn up by itself.

import { live } from "./live.js";
import { lab, page, toast } from "./app.js";
import { setState } from "./format.js";

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {                                                 // no permission, or plain http: the old way, then by hand
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy));
    button.textContent = done ? "Copied" : "Copy";
    if (!done) toast("This browser does not let the page copy: the text is selected, press Ctrl+C.", "error");
  });
}

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
