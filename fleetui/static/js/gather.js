// Says how many stored episodes the filter finds, as it is changed.

import { count, setText } from "./format.js";

const WAIT_MS = 400;
const form = document.querySelector("#gather"), said = document.querySelector("#count");
let timer = null, asked = 0;

async function ask() {
  const mine = ++asked, query = new URLSearchParams(new FormData(form));
  query.delete("csrfmiddlewaretoken");
  const answer = await fetch(`${form.dataset.count}?${query}`).catch(() => null);
  if (mine !== asked) return;
  const found = answer?.ok ? await answer.json() : { error: "The server can't be reached; the count is not known." };
  setText(said, found.error ?? `${count(found.episodes)} episode${found.episodes === 1 ? "" : "s"} match, with `
    + `${count(found.steps)} steps.`);
}
const soon = () => { clearTimeout(timer); timer = setTimeout(ask, WAIT_MS); };
form.addEventListener("input", soon);
form.addEventListener("change", soon);
ask();
