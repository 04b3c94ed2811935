// What is on its way in, of datasets or of pretrained models: how far it is, and an archive that goes up in pieces, so
// that an interrupted upload goes on where it stopped. A page without JavaScript shows it when it is loaded again.

import { csrfToken, postApi } from "./live.js";
import { lab, toast } from "./app.js";
import { percent, refreshTimes, root, setText } from "./format.js";

const PIECE = 4 * 2 ** 20;      // bytes
const AGAIN_MS = 2000;          // after a piece that did not arrive
const MOVING = ["uploading", "checking", "importing"];
const $ = (selector) => document.querySelector(selector);
const imports = $("#imports");
const uploading = new Map();    // an import's number -> true while its file goes up here

const moving = () => [...imports.querySelectorAll("[data-import]")].filter((each) =>
  MOVING.includes(each.dataset.importState));

export async function readList(name) {
  const answer = await fetch(`${root}api/labs/${lab}/${name}`).catch(() => null);
  return answer?.ok ? (await answer.json()).items : null;
}

export async function refreshImports() {
  const shown = moving();
  if (!shown.length) return;
  const rows = await readList("imports?limit=50");
  for (const element of rows ? shown : []) {
    const row = rows.find((each) => String(each.id) === element.dataset.import);
    if (!row) continue;
    if (row.state === "ready" && !uploading.size) { location.reload(); return; }
    if (row.state !== element.dataset.importState) { await drawImports(); return; }
    setText(element.querySelector("[data-f=progress]"), percent(row.progress));
    element.querySelector("progress").value = row.progress;
    if (row.state === "uploading") {
      setText(element.querySelector("[data-f=phase]"), `${mebibytes(row.received)} of ${mebibytes(row.size)} are here`);
      element.dataset.received = row.received;
    } else setText(element.querySelector("[data-f=phase]"), row.phase || "Waiting for the worker");
  }
}

const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;

async function drawImports() {
  const answer = await fetch(imports.dataset.url).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const before = moving().map((each) => each.dataset.import);
  imports.innerHTML = await answer.text();
  // One that became whole meanwhile stands in the other list, which comes with the page.
  if (!uploading.size && before.some((id) => !imports.querySelector(`[data-import="${id}"]`))) location.reload();
  $("#imports-panel").hidden = !imports.querySelector("[data-import]");
  offerToGoOn();
  refreshTimes(imports);
}

// ---- an archive

const hex = (bytes) => [...new Uint8Array(bytes)].map((each) => each.toString(16).padStart(2, "0")).join("");

// Of a plain-HTTP address other than localhost a browser offers no hashes; the whole is checked by its size then.
async function hashOf(bytes) {
  return crypto.subtle ? `&sha256=${hex(await crypto.subtle.digest("SHA-256", bytes))}` : "";
}

async function send(number, file, received) {
  uploading.set(number, true);
  offerToGoOn();
  try {
    while (received < file.size) {
      const body = await file.slice(received, received + PIECE).arrayBuffer();
      const url = `${root}api/labs/${lab}/imports/${number}/bytes?offset=${received}${await hashOf(body)}`;
      const headers = { "Content-Type": "application/octet-stream", "X-CSRFToken": csrfToken() };
      const answer = await fetch(url, { method: "PUT", headers, body }).catch(() => null);
      if (answer?.ok) { received = (await answer.json()).received; continue; }
      if (answer && answer.status < 500) {
        // Another piece than it waits for, or cancelled meanwhile: what is there says how to go on.
        const now = await fetch(`${root}api/labs/${lab}/imports/${number}`).then((each) => each.json());
        if (now.state !== "uploading") break;
        if (now.received === received) throw new Error((await answer.json()).detail);
        received = now.received;
      } else await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  } catch (error) {
    toast(`${file.name} could not be sent: ${error.message}`, "error");
  } finally {
    uploading.delete(number);
    await drawImports();
  }
}

// Where an upload stands still the same file may be chosen again.
function offerToGoOn() {
  for (const element of imports.querySelectorAll("[data-import]")) {
    const again = element.querySelector("[data-again]");
    if (again) again.hidden = uploading.has(element.dataset.import);
  }
}

imports.addEventListener("change", (event) => {
  const element = event.target.closest("[data-import]"), [file] = event.target.files ?? [];
  if (!element || !file) return;
  const { size, place, received } = element.dataset;
  if (file.size !== Number(size) || file.name !== place) {
    toast(`That is another file: ${place} of ${size} bytes is wanted.`, "error");
    event.target.value = "";
  } else send(element.dataset.import, file, Number(received));
});
window.addEventListener("beforeunload", (event) => { if (uploading.size) event.preventDefault(); });

const form = $("#import-form");
if (form) {
  const chosen = $("#import_archive"), said = $("#import-error");
  $("#archive-field").hidden = false;
  form.addEventListener("submit", async (event) => {
    const [file] = chosen.files;
    if (!file) return;          // a folder on the server
    event.preventDefault();
    const width = form.elements.picture_width?.value;
    const begun = await postApi(`labs/${lab}/imports/uploads`, { name: form.elements.name.value, file_name: file.name,
      size: file.size, of: form.dataset.of, picture_width: width ? Number(width) : null });
    said.hidden = begun.ok;
    setText(said, begun.error);
    if (!begun.ok) return;
    form.reset();
    const going = send(String(begun.id), file, 0);
    await drawImports();
    $("#imports-panel").scrollIntoView({ block: "nearest" });
    await going;
  });
}
offerToGoOn();
