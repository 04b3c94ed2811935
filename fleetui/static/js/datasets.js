// Datasets that are being generated report their progress; a page without JavaScript shows it when it is loaded again.

import { lab } from "./app.js";
import { percent, root, setText } from "./format.js";

const waiting = () => [...document.querySelectorAll('tr [data-state="generating"]')].map((state) =>
  state.closest("tr"));

async function refresh() {
  if (document.hidden || !waiting().length) return;
  const answer = await fetch(`${root}api/labs/${lab}/datasets`).catch(() => null);
  if (!answer?.ok) return;
  const { items: datasets } = await answer.json();
  for (const row of waiting()) {
    const dataset = datasets.find((each) => String(each.id) === row.dataset.dataset);
    if (!dataset) continue;
    if (dataset.state !== "generating") return location.reload();
    setText(row.querySelector("[data-f=progress]"), percent(dataset.progress));
  }
}
setInterval(refresh, 1500);
