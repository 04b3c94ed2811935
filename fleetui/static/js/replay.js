// An episode, step by step. The address holds the step (?step=N), so a step can be sent to somebody.

import { Feeds } from "./feeds.js";
import { Player } from "./player.js";
import { Strip } from "./strip.js";
import { lab, page, toast, typing } from "./app.js";
import { addToDataset, label, LABELS } from "./control.js";
import { isNumber, number, percent, root, setText } from "./format.js";

const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
const base = `${root}api/labs/${lab}/episodes/${page.episode}`;
const scrub = $("#scrub");
const strip = new Strip($("#strip"), { large: true });
const last = Number(page.steps);
strip.limit = last;
let steps = null, rate = 1;

const ACTORS = ["policy", "human", "script"];
const feeds = new Feeds({ base, last, first: $("#feed") });

// What the numbers of an action are called, with their units where the body tells them.
const namesOf = (feature) => (feature?.names ?? [])
  .map((name, i) => feature.units?.[i] ? `${name} (${feature.units[i]})` : name).join(", ");

const valueAt = (values, at) => Array.isArray(values) ? values[at] : undefined;

function show(step, passing) {
  scrub.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  setText($("#where"), `step ${step} of ${last}`);
  feeds.draw(step);
  if (steps) {
    const d = valueAt(steps.d, step), action = valueAt(steps.actions, step), actor = valueAt(steps.actors, step);
    setText(field("d"), number(d, 1));
    setText(field("reward"), isNumber(valueAt(steps.reward, step)) ? steps.reward[step].toFixed(2) : "–");
    const aside = valueAt(steps.fenced, step) ? ", turned aside by the fence" : "";
    setText(field("actor"), actor === undefined ? "–" : (typeof actor === "number" ? ACTORS[actor] : actor) + aside);
    const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
    setText(field("action"), action ? action.map(signed).join(" ") : "–");
    field("action").title = action ? namesOf(steps.embodiment?.action) : "";
    setText(field("time"), `${(step / (steps.fps || 5)).toFixed(1)} s`);
    const start = valueAt(steps.d, 0);
    setText(field("progress"), isNumber(d) && start > 0 ? percent(Math.max(0, 1 - d / start)) : "–");
  }
  if (passing) return;
  history.replaceState(null, "", page.step === undefined ? `?step=${step}` : location.search);
  const link = $("#to-playground");
  if (link) link.href = link.href.replace(/(&step=\d+)?$/, `&step=${step}`);
}

const player = new Player({ play: $("#play"), scrub, strip, perSecond: () => (steps?.fps || 5) * rate, show });
player.range(0, last);

player.listenRates((chosen) => { rate = chosen; });
player.listenKeys();

// ---- what a person says of it
const labels = [...document.querySelectorAll("[data-label]")];
function mark(value) {
  label(page.episode, value, "This episode", (now) => {
    setText(field("true"), now === null ? "unknown" : now ? "yes" : "no");
    for (const button of labels) button.setAttribute("aria-pressed", String(button.dataset.label === String(now)));
  });
}
for (const button of labels) button.addEventListener("click", () => mark(button.dataset.label === "true"));
document.addEventListener("keydown", (event) => {
  if (!labels.length || typing(event) || event.repeat || event.ctrlKey || event.metaKey || event.altKey
    || !event.shiftKey) return;
  const key = event.key.toLowerCase();
  if (key in LABELS) mark(LABELS[key]);
});
$("#add-correction")?.addEventListener("click", (event) => addToDataset(page.episode, event.currentTarget));

// A page that is about one step, such as a spot check, says so itself.
const asked = Number(new URLSearchParams(location.search).get("step") ?? page.step);
player.move(Number.isInteger(asked) ? asked : 0, true);
feeds.open(() => player.at);
try {
  const answer = await fetch(`${base}/steps`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  steps = body;
  strip.setTrace(steps.d, { threshold: steps.threshold, limit: last,
    actors: (steps.actors ?? []).map((actor) => actor === "human" || actor === 1) });
  player.listEvents($("#events"), (step) => `Step ${step}`);
  player.move(player.at, true);
} catch (error) { toast(`The steps of this episode could not be read: ${error.message}`, "error"); }
