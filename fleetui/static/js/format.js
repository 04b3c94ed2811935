// Words, shapes and numbers, said the same way on every page.

// What every address of the site begins with: "/", or the sub-path under which a proxy shows it.
export const root = document.body.dataset.root;

// A station's states as the server declares them: {state: {words, many, moved_by, until_person}}.
export const STATES = JSON.parse(document.body.dataset.states);
export const stateWord = (state) => STATES[state]?.words ?? state;

export function setState(element, state, word = stateWord(state)) {
  element.dataset.state = state;
  element.querySelector("use")?.setAttribute("href", `#s-${state}`);
  const text = element.querySelector("span");
  if (text && text.textContent !== word) text.textContent = word;
}

export function setText(element, text) { if (element && element.textContent !== text) element.textContent = text; }

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const percent = (value, digits = 0) => isNumber(value) ? `${(100 * value).toFixed(digits)} %` : "–";
export const number = (value, digits = 0) => isNumber(value) ? value.toFixed(digits) : "–";
export const speedWord = (speed) => speed === 0 ? "max" : `${speed ?? 1}×`;
export const count = (value) => isNumber(value) ? value.toLocaleString("en").replaceAll(",", "\u202f") : "–";

// A policy that was evaluated has learned from some of the practice episodes that there are by now: both numbers, or
// one that is both.
export const learnedOf = (learned, stored) =>
  `${count(learned)}${stored > learned ? ` of ${count(stored)}` : ""} practice episodes`;

export function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// The server's clocks: ages must not depend on how the browser's clock is set. Of the newest that the server said, the
// least delayed is the truest; the browser's own steady clock carries it on. `server_time` is the time of day, which
// may jump and is for what is shown; `clock` is steady and tells how old a command is.
const HEARD = 5;
const ahead = { server_time: [], clock: [] };
export function hearServerTime(message) {
  for (const [name, heard] of Object.entries(ahead)) {
    if (!isNumber(message[name])) continue;
    heard.push(1000 * message[name] - performance.now());
    if (heard.length > HEARD) heard.shift();
  }
}
export function forgetServerTime() { for (const heard of Object.values(ahead)) heard.length = 0; }
export const serverNow = () => ahead.server_time.length ? performance.now() + Math.max(...ahead.server_time)
  : Date.now();
export const knowsSteadyClock = () => ahead.clock.length > 0;
export const steadyNow = () => (performance.now() + Math.max(...ahead.clock)) / 1000;   // seconds

export function ago(date) {
  const seconds = (serverNow() - date.getTime()) / 1000;
  return seconds < 5 ? "now" : `${duration(seconds)} ago`;
}

// The person's own zone; the browser's where that is not known yet, or not to this browser.
export const zone = (() => {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: document.body.dataset.zone }).resolvedOptions().timeZone;
  } catch { return undefined; }
})();
export const timeOfDay = (date) => date.toLocaleTimeString("en-GB", { timeZone: zone });

// <time datetime="..."> is relative, with the absolute time on hover.
export function refreshTimes(within = document) {
  for (const element of within.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    setText(element, ago(date));
    element.title = date.toLocaleString(undefined, { timeZone: zone, dateStyle: "medium", timeStyle: "long" });
  }
}

// A custom property's colour, resolved by the browser for use in a canvas or a plot. Asking makes the browser compute
// styles, too dear for sixteen strips ten times a second: each colour is asked for once a theme.
const probe = document.createElement("span");
probe.hidden = true;
const colours = new Map();
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  if (!colours.has(name)) {
    probe.style.color = `var(--${name})`;
    colours.set(name, getComputedStyle(probe).color);
  }
  return colours.get(name);
}
document.addEventListener("themechange", () => colours.clear());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours.clear());

export function withAlpha(rgb, alpha) {
  const parts = rgb.match(/[\d.]+/g);
  return `rgb(${parts[0]} ${parts[1]} ${parts[2]} / ${alpha})`;
}
