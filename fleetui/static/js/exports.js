// Files that a job makes to be downloaded: how far each is, then its link.

import { postApi } from "./live.js";
import { lab, toast } from "./app.js";
import { percent, root, setText } from "./format.js";

const EVERY_MS = 1000;
const box = document.querySelector("#exports");
const making = () => [...(box?.querySelectorAll('[data-export-state="making"]') ?? [])];

function link(row) {
  const anchor = document.createElement("a");
  anchor.className = row.kind === "lerobot" ? "button" : "";
  anchor.href = `${root}api/labs/${lab}/exports/${row.id}/file`;
  anchor.textContent = row.kind === "lerobot" ? "Download the archive" : `${row.kind.toUpperCase()} ${row.camera}`;
  return anchor;
}

async function look() {
  for (const element of document.hidden ? [] : making()) {
    const answer = await fetch(`${root}api/labs/${lab}/exports/${element.dataset.export}`).catch(() => null);
    if (!answer?.ok) continue;
    const row = await answer.json();
    const bar = element.querySelector("progress");
    if (bar) bar.value = row.progress;
    setText(element.querySelector("[data-f=progress]"), percent(row.progress));
    if (row.state === "making") continue;
    element.dataset.exportState = row.state;
    if (row.state === "ready") element.replaceChildren(link(row));
    else { element.className = "form-error"; element.textContent = row.error; }
  }
  setTimeout(look, EVERY_MS);
}
look();

// Ask for one; it is shown as the others. (No name with "export" in it: what collects static files would take an import
// of it for an export.)
export async function askForFile(dataset, wanted) {
  const row = await postApi(`labs/${lab}/datasets/${dataset}/exports`, wanted);
  if (!row.ok) { toast(row.error, "error"); return; }
  if (box.querySelector(`[data-export="${row.id}"]`)) return;
  const element = document.createElement("div"), bar = document.createElement("progress");
  element.className = "export";
  element.dataset.export = row.id;
  element.dataset.exportState = "making";
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", `How far the ${wanted.kind} is`);
  element.append(bar);
  box.append(element);
}
