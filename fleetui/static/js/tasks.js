// The queue: shown anew as the fleet goes on, and ordered by drag, by its buttons or by Alt with an arrow key. Without
// JavaScript its buttons are plain forms, and it is as new as the page.

import { lab, toast } from "./app.js";
import { refreshTimes, root } from "./format.js";

const queue = document.querySelector("#queue");
const REFRESH_MS = 2000;
let shown = "", dragged = null, asked = 0;

// A form's token differs each time it is drawn; it says nothing about the queue.
const plain = (html) => html.replaceAll(/csrfmiddlewaretoken" value="[^"]*"/g, "");

async function refresh() {
  const mine = ++asked;
  const answer = await fetch(`${root}labs/${lab}/tasks/queue`).catch(() => null);
  if (!answer?.ok || answer.redirected || mine !== asked || dragged || document.querySelector("#confirm[open]")) return;
  const html = await answer.text();
  if (mine !== asked || dragged || plain(html) === shown) return;
  shown = plain(html);
  const focus = document.activeElement?.dataset?.key;
  queue.innerHTML = html;
  refreshTimes(queue);
  if (focus) keepFocus(focus);
}

function keepFocus(key) {
  const button = queue.querySelector(`[data-key="${key}"]`);
  if (button && !button.disabled) return button.focus();
  button?.closest("tr").querySelector("button:not(:disabled)")?.focus();
}

async function move(assignment, before) {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const answer = await fetch(`${root}api/labs/${lab}/assignments/${assignment}/move`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": token },
    body: JSON.stringify({ before }),
  }).catch(() => null);
  if (!answer?.ok) {
    const body = await answer?.json().catch(() => null);
    toast(body?.detail || "The connection was lost, so nothing was moved. Try again.", "error");
  }
  await refresh();
}

queue?.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches(".move")) return;
  event.preventDefault();
  move(form.dataset.move, form.elements.before.value ? Number(form.elements.before.value) : null);
});

queue?.addEventListener("keydown", (event) => {
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  const row = event.target.closest("tr[draggable]");
  const button = row?.querySelector(`[data-key^="${event.key === "ArrowUp" ? "up" : "down"}-"]`);
  if (!button) return;
  event.preventDefault();
  if (!button.disabled) { button.focus(); button.click(); }
});

// ---- drag: the line shows where the row would stand
const clearMarks = () => {
  for (const row of queue.querySelectorAll(".drop-before, .drop-after")) {
    row.classList.remove("drop-before", "drop-after");
  }
};
const isUpper = (row, event) => {
  const box = row.getBoundingClientRect();
  return event.clientY < box.top + box.height / 2;
};
const below = (row) => {
  const next = row.nextElementSibling;
  return next?.dataset.assignment ? Number(next.dataset.assignment) : null;
};

queue?.addEventListener("dragstart", (event) => {
  const row = event.target.closest?.("tr[draggable]");
  if (!row || event.target.closest("a, button")) return;
  dragged = row;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", row.dataset.assignment);
  row.classList.add("dragged");
});
queue?.addEventListener("dragover", (event) => {
  const row = event.target.closest("tr[draggable]");
  if (!dragged || !row) return;
  event.preventDefault();
  clearMarks();
  if (row !== dragged) row.classList.add(isUpper(row, event) ? "drop-before" : "drop-after");
});
queue?.addEventListener("drop", (event) => {
  const row = event.target.closest("tr[draggable]");
  if (!dragged || !row) return;
  event.preventDefault();
  const assignment = Number(dragged.dataset.assignment);
  const before = isUpper(row, event) ? Number(row.dataset.assignment) : below(row);
  endDrag();
  if (before !== assignment) move(assignment, before);
});
function endDrag() {
  clearMarks();
  dragged?.classList.remove("dragged");
  dragged = null;
}
queue?.addEventListener("dragend", endDrag);

setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);

// ---- a task in words: some of its sentences, while one types
const form = document.querySelector(".task-form");
const sentences = form?.querySelector(".sentences");
const TYPING_MS = 300;
let typing = 0, previewed = 0;

async function preview() {
  const mine = ++previewed;
  const written = ["wordings", "slots", "held_out_wordings"].filter((name) => form.elements[name]?.value.trim());
  if (!written.length) { sentences.hidden = true; return; }
  const answer = await fetch(form.dataset.preview, { method: "POST", body: new FormData(form) }).catch(() => null);
  if (!answer?.ok || mine !== previewed) return;
  sentences.innerHTML = await answer.text();
  sentences.hidden = false;
}

if (form?.elements.wordings) {
  form.addEventListener("input", (event) => {
    if (!event.target.matches("textarea")) return;
    clearTimeout(typing);
    typing = setTimeout(preview, TYPING_MS);
  });
  preview();
}
