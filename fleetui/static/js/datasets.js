// The list of datasets: what is being generated or imported says how far it is. A page without JavaScript shows it when
// it is loaded again.

import { percent, setText } from "./format.js";
import { readList, refreshImports } from "./imports.js";

const waiting = () => [...document.querySelectorAll('tr [data-state="generating"]')].map((state) =>
  state.closest("tr"));

async function refreshDatasets() {
  if (!waiting().length) return;
  const datasets = await readList("datasets");
  for (const row of datasets ? waiting() : []) {
    const dataset = datasets.find((each) => String(each.id) === row.dataset.dataset);
    if (!dataset) continue;
    if (dataset.state !== "generating") { location.reload(); return; }
    setText(row.querySelector("[data-f=progress]"), percent(dataset.progress));
  }
}

async function refresh() {
  if (!document.hidden) await Promise.all([refreshDatasets(), refreshImports()]);
  setTimeout(refresh, 1000);
}
refresh();
