// The detector's studio: a slider that moves asks for the figures anew. The address holds the view; without JavaScript
// the form does the same by its button. Pictures are made one after the other, for what is on the screen.

import { lab } from "./app.js";
import { setText } from "./format.js";
import { pictureAt } from "./pictures.js";

const form = document.querySelector("#studio"), figures = document.querySelector("#figures");
const DEBOUNCE_MS = 60;
let timer = 0, asking = null;

function query() {
  const given = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...given]) if (!value) given.delete(name);
  return given;
}

async function refresh() {
  asking?.abort();
  asking = new AbortController();
  const given = query();
  figures.setAttribute("aria-busy", "true");
  const answer = await fetch(`${form.dataset.url}?${given}`, { signal: asking.signal }).catch(() => null);
  if (!answer?.ok || answer.redirected) {
    if (answer) setText(document.querySelector("#say-s"), "the server did not answer; try again");
    return;
  }
  figures.innerHTML = await answer.text();
  figures.setAttribute("aria-busy", "false");
  history.replaceState(null, "", `?${given}`);
  watchShots();
}

form.addEventListener("input", () => {
  setText(document.querySelector("#say-s"), form.elements.s.value);
  setText(document.querySelector("#say-k"), form.elements.k.value);
  const publish = document.querySelector("#publish form");
  if (publish) {
    publish.elements.threshold.value = form.elements.s.value;
    publish.elements.consecutive.value = form.elements.k.value;
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, DEBOUNCE_MS);
});
form.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });

// ---- the gallery
let line = Promise.resolve();
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    line = line.then(() => show(target));
  }
});

async function show(shot) {
  if (!shot.isConnected) return;
  const { episode, step } = shot.dataset;
  try {
    const picture = new Image();
    picture.alt = "";
    picture.src = await pictureAt(lab, episode, step, () => shot.isConnected);
    shot.replaceChildren(picture);
  } catch (error) { setText(shot, error.message); }
}

function watchShots() { for (const shot of figures.querySelectorAll(".shot")) seen.observe(shot); }
watchShots();
