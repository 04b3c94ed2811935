// While one types: what differs from the usual value is marked, what differs from the run that is cloned says so, and
// the estimate comes anew.

const form = document.querySelector("#launch");
// Not form.dataset: that is the form's field of this name.
const [kind, like, place] = ["kind", "like", "estimate"].map((name) => form.getAttribute(`data-${name}`));
const ESTIMATE_MS = 400;
let timer = 0;

const same = (a, b) => a.trim() === b.trim() || (a.trim() !== "" && b.trim() !== "" && Number(a) === Number(b));

// Of a choice, as it is called.
function began(input) {
  const value = input.dataset.began;
  return [...input.options ?? []].find((each) => each.value === value)?.text ?? (value || "empty");
}

function mark(input) {
  const field = input.closest(".field");
  field.classList.toggle("changed", input.value.trim() !== "" && !same(input.value, input.dataset.usual));
  let note = field.querySelector(".was");
  const differs = like && !same(input.value, input.dataset.began);
  if (differs && !note) {
    note = document.createElement("span");
    note.className = "was small";
    field.append(note);
  }
  if (note) {
    note.hidden = !differs;
    note.textContent = differs ? `${like}: ${began(input)}` : "";
  }
}

async function estimate() {
  const query = new URLSearchParams(new FormData(form));
  query.delete("csrfmiddlewaretoken");
  query.set("kind", kind);
  const answer = await fetch(`${place}?${query}`).catch(() => null);
  if (answer?.ok && !answer.redirected) document.querySelector("#estimate").innerHTML = await answer.text();
}

for (const input of form.querySelectorAll("[data-began]")) mark(input);
form.addEventListener("input", (event) => {
  if (event.target.dataset.began !== undefined) mark(event.target);
  clearTimeout(timer);
  timer = setTimeout(estimate, ESTIMATE_MS);
});
