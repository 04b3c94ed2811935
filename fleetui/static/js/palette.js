// Ctrl+K on every page: go to a page, a station, a run ..., or to where an act is done. The server knows what there
// is and what the person's role may do (fleet/jump.py).

import { lab } from "./app.js";
import { root } from "./format.js";
import { stopAll } from "./control.js";

const AT_ONCE = { stop_all: stopAll };   // acts that have no page
const palette = document.querySelector("#palette");
const input = palette.querySelector("input");
const list = palette.querySelector("ul");
let results = [], chosen = 0, asked = 0, searching = null;

function go(result) {
  palette.close();
  if (result.act) AT_ONCE[result.act](); else location.href = result.url;
}

function drawResults() {
  list.replaceChildren(...results.map((result, index) => {
    const item = document.createElement("li");
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(index === chosen));
    const title = document.createElement("span");
    title.textContent = result.title;
    const kind = document.createElement("span");
    kind.className = "muted";
    kind.textContent = result.kind;
    item.append(title, kind);
    item.addEventListener("click", () => go(result));
    return item;
  }));
  palette.querySelector(".none").hidden = results.length > 0 || !input.value;
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

async function search() {
  const mine = ++asked;
  try {
    const answer = await fetch(`${root}labs/${lab}/jump?q=${encodeURIComponent(input.value.trim())}`);
    const found = answer.ok ? (await answer.json()).results : null;
    if (!found || mine !== asked) return;
    results = found;
  } catch { return; }                                       // the connection banner says why
  chosen = 0;
  drawResults();
}

function open() {
  if (palette.open) return;
  palette.showModal();
  input.value = "";
  searching = search();
}

input.addEventListener("input", () => { searching = search(); });
palette.addEventListener("keydown", async (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    chosen = Math.max(0, Math.min(results.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
    drawResults();
  } else if (event.key === "Enter") {
    event.preventDefault();
    await searching;                                        // never what an older word had found
    if (results[chosen]) go(results[chosen]);
  }
});
document.querySelector("#jump")?.addEventListener("click", open);
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); open(); }
});
