// A choice is carried out at once: the address says it, the chart's frame hears it, and the tables come anew.

const form = document.querySelector("#choices");
const frame = document.querySelector("iframe.chart");

async function follow() {
  const query = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...query]) if (!value) query.delete(name, value);
  history.replaceState(null, "", `?${query}`);
  for (const link of document.querySelectorAll("a[data-file]")) link.search = query;
  const asked = new URLSearchParams(query);
  asked.set("lab", document.body.dataset.lab);
  frame?.contentWindow?.dash_clientside?.set_props("url", { search: `?${asked}` });
  const answer = await fetch(`?${query}`).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-part]")) {
    part.replaceChildren(...fresh.querySelector(`[data-part="${part.dataset.part}"]`)?.childNodes ?? []);
  }
}

form?.addEventListener("change", (event) => { if (event.target.tagName === "SELECT" && !event.target.dataset.adds) {
  follow();
} });
if (form) form.querySelector("[data-without-script]").hidden = true;
