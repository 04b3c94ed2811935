// On every page: theme, the page's keys (?), toasts, one confirmation for destructive acts, times, how many stations
// call.

import { live } from "./live.js";
import { refreshTimes, root, setText } from "./format.js";

export const page = document.body.dataset;
export const lab = page.lab || null;

// undo: {label, act}, a button inside.
export function toast(text, kind = "plain", undo = null) {
  const box = document.querySelector("#toasts");
  const element = document.createElement("div");
  element.className = `toast ${kind}`;
  element.setAttribute("role", kind === "error" ? "alert" : "status");
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close this message");
  close.addEventListener("click", () => element.remove());
  element.append(words);
  if (undo) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "undo";
    button.textContent = undo.label;
    button.addEventListener("click", () => { element.remove(); undo.act(); });
    element.append(button);
  }
  element.append(close);
  box.append(element);
  while (box.children.length > 4) box.firstElementChild.remove();
  setTimeout(() => element.remove(), kind === "error" || undo ? 12000 : 4500);
}

// What a dialog's act will touch, each by name.
function listIn(dialog, names) {
  const list = dialog.querySelector("ul");
  list.hidden = names.length === 0;
  list.replaceChildren(...names.map((name) => {
    const row = document.createElement("li");
    row.textContent = name;
    return row;
  }));
}

export function confirmAct(question, verb, names = []) {
  const dialog = document.querySelector("#confirm");
  dialog.querySelector("p").textContent = question;
  listIn(dialog, names);
  dialog.querySelector("[value=yes]").textContent = verb;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"),
    { once: true }));
}

// Resolves to what the person wrote, or null.
export function askReason(question, verb, names = []) {
  const dialog = document.querySelector("#ask"), input = dialog.querySelector("input");
  dialog.querySelector("p").textContent = question;
  listIn(dialog, names);
  dialog.querySelector("[value=yes]").textContent = verb;
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => dialog.addEventListener("close",
    () => resolve(dialog.returnValue === "yes" ? input.value.trim() : null), { once: true }));
}

export async function commandStation(station, name, args = {}) {
  const done = await live.command(lab, station, name, args);
  if (!done.ok) toast(`${station}: ${done.error || `${name} was refused`}`, "error");
  return done.ok;
}

// A slider takes no letters: the keys of the page, the stop's above all, work while it has the focus.
export const writing = (event) => event.target.matches("input:not([type=range]), textarea, select, [contenteditable]");
export const typing = (event) => writing(event) || document.querySelector("dialog[open]");

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.confirm || form.dataset.confirmed) return;
  event.preventDefault();
  if (await confirmAct(form.dataset.confirm, form.dataset.verb || "Yes")) {
    form.dataset.confirmed = "1";
    form.requestSubmit(event.submitter);
  }
});

// ---- theme: the system's, until the person chooses
document.querySelector("#theme")?.addEventListener("click", () => {
  const { dataset } = document.documentElement;
  const dark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", dataset.theme); } catch { /* not kept then */ }
  document.dispatchEvent(new Event("themechange"));
});

// ---- a person who is first seen here has the zone of this browser
if (page.zone === "") {
  const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value;
  const seen = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const request = { method: "POST", headers: { "X-CSRFToken": token }, body: new URLSearchParams({ seen }) };
  if (token && seen) fetch(page.zonePage, request).catch(() => {});
}

// ---- keys
const keysDialog = document.querySelector("#keys");
document.querySelector("#show-keys")?.addEventListener("click", () => keysDialog.showModal());

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !typing(event)) { event.preventDefault(); keysDialog?.showModal(); }
});

// How many help requests are open, in the navigation. A page that nobody looks at asks nothing.
const HELP_EVERY_MS = 3000;
const helpCount = document.querySelector("#help-count");

async function countHelp() {
  if (document.hidden) return;
  const answer = await fetch(`${root}labs/${lab}/attention/count`).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const { open } = await answer.json();
  setText(helpCount.firstElementChild, String(open));
  helpCount.hidden = open === 0;
}
if (helpCount) {
  setInterval(countHelp, HELP_EVERY_MS);
  document.addEventListener("visibilitychange", countHelp);
}

// A link to what is folded away unfolds it.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) target.open = true;
}
window.addEventListener("hashchange", unfold);
unfold();

// A form that was refused: what is wrong is said on top, where the page begins and a screen reader goes on.
document.querySelector("#problems")?.focus();

// On a phone what narrows a list is folded away, unless it does.
for (const fold of document.querySelectorAll("details.fold")) {
  const used = [...fold.querySelectorAll("input, select")].some((field) => field.value);
  if (!used && matchMedia("(max-width: 720px)").matches) fold.open = false;
}

// What the last form did is said and goes away by itself; a page without JavaScript keeps it on top.
const undoForm = document.querySelector("form[data-undo]");
for (const message of document.querySelectorAll(".messages li:not(.error)")) {
  const undo = message.classList.contains("undo") && undoForm;
  toast(message.textContent, "plain", undo ? { label: "Undo", act: () => undoForm.requestSubmit() } : null);
  message.remove();
}
live.addEventListener("refused", (event) => toast(event.detail.error, "error"));
refreshTimes();
setInterval(refreshTimes, 10000);
