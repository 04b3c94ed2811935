// The playground: asks while one types, for the frame and the checkpoints that are chosen. The address holds it all.

import { lab } from "./app.js";
import { isNumber, number, setText } from "./format.js";
import { pictureAt } from "./pictures.js";

const form = document.querySelector("#playground"), said = document.querySelector("#said");
const frame = document.querySelector("#frame"), picture = frame.querySelector("img");
const TYPING_MS = 300;
let timer = 0, asking = null, shown = -1;

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// Shares as bars, each named by what it stands for.
function bars(shares, name, low) {
  const box = make("div", low ? "bars low" : "bars"), most = Math.max(...shares, 1e-6);
  shares.forEach((share, i) => {
    const bar = make("span", share === most ? "most" : "");
    bar.style.height = `${100 * share / most}%`;
    bar.title = `${name(i)}: ${(100 * share).toFixed(1)} %`;
    box.append(bar);
  });
  box.setAttribute("role", "img");
  const best = shares.indexOf(most);
  box.setAttribute("aria-label", `likeliest ${name(best)}, ${(100 * shares[best]).toFixed(1)} %`);
  return box;
}

function axis(...marks) {
  const row = make("div", "bar-axis");
  row.append(...marks.map((mark) => make("span", "", mark)));
  return row;
}

function stepsToGo(box, title, shares, width, last) {
  box.append(make("h2", "", title));
  box.append(bars(shares, (i) => i === shares.length - 1 ? last : `${i * width} to ${(i + 1) * width - 1} steps`));
  box.append(axis("0", `${shares.length * width / 2} steps`, last));
}

function draw(box, answer) {
  box.replaceChildren();
  if (answer.error) { box.append(make("p", "form-error", answer.error)); return; }
  if (answer.unknown_words.length) {
    box.append(make("p", "muted", `It does not know: ${answer.unknown_words.join(", ")}.`));
  }
  const width = answer.bin_width;
  if (answer.role === "reward_model") {
    const verdict = answer.d <= answer.threshold ? "at or below" : "above";
    box.append(make("p", "said", `d = ${number(answer.d, 1)} steps, ${verdict} s = ${number(answer.threshold, 1)}`));
    stepsToGo(box, "Steps to go", answer.distribution, width, "farther");
    return;
  }
  stepsToGo(box, "Its own prediction of success", answer.prediction, width, "not in time");
  box.append(make("h2", "", "Action tokens"));
  for (const { name, values, p } of answer.actions) {
    const mean = values.reduce((sum, value, i) => sum + value * p[i], 0);
    box.append(make("p", "small", `${name}: ${mean >= 0 ? "+" : "−"}${Math.abs(mean).toFixed(3)} on average`));
    box.append(bars(p, (i) => values[i].toFixed(3), true));
    box.append(axis(values[0].toFixed(3), values.at(-1).toFixed(3)));
  }
  if (!answer.exact) {
    box.append(make("p", "small muted", "Each number's shares come after the likeliest of those before it."));
  }
}

async function ask() {
  asking?.abort();
  const mine = asking = new AbortController();
  const given = new URLSearchParams(new FormData(form));
  history.replaceState(null, "", `?${given}`);
  setText(said, "Asking …");
  const answer = await fetch(`${form.dataset.url}?${given}`, { signal: mine.signal }).catch(() => null);
  if (mine !== asking) return;
  const body = await answer?.json().catch(() => null);
  if (!answer?.ok || !body) {
    setText(said, body?.detail || "The connection was lost, so nothing was asked. Try again.");
    return;
  }
  setText(said, "");
  let next = 0;
  for (const side of document.querySelectorAll("[data-side]")) {
    const box = side.querySelector(".answer");
    if (given.get(side.dataset.side)) draw(box, body.answers[next++]);
    else box.replaceChildren(make("p", "muted", "Choose a checkpoint to see what it says."));
  }
}

async function showFrame() {
  const step = Number(form.elements.step.value);
  setText(document.querySelector("#say-step"), String(step));
  if (step === shown || !isNumber(step)) return;
  shown = step;
  try {
    const address = await pictureAt(lab, form.dataset.episode, step, () => step === shown);
    if (step !== shown) return;
    picture.src = address;
    picture.hidden = false;
    frame.classList.add("has-frame");
    setText(frame.querySelector(".note"), "");
  } catch (error) { if (step === shown) setText(frame.querySelector(".note"), error.message); }
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(ask, TYPING_MS);
  showFrame();
}
form.addEventListener("input", soon);
form.addEventListener("submit", (event) => { event.preventDefault(); soon(); });
for (const choice of document.querySelectorAll("[data-side] select")) choice.addEventListener("change", soon);
showFrame();
ask();
