// A policy's page: while a comparison goes on, its table is drawn anew.

import { refreshTimes } from "./format.js";

const EVERY_MS = 1500;
const table = document.querySelector("#comparisons");

async function refresh() {
  if (document.hidden || !table.querySelector("[data-live]") || document.querySelector("dialog[open]")) return;
  const answer = await fetch(table.dataset.url).catch(() => null);
  if (!answer?.ok || answer.redirected || table.contains(document.activeElement)) return;
  table.innerHTML = await answer.text();
  refreshTimes(table);
}

setInterval(refresh, EVERY_MS);
