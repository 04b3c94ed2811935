// What a policy says of itself beside d and P(success), as its method declares it: numbers, some of them with a bar.

import { isNumber, number, percent, setText } from "./format.js";

const declared = JSON.parse(document.body.dataset.signals ?? "{}");

function words(signal, value) {
  const word = signal.words?.[Math.round(value)];
  if (word) return word;
  const unit = signal.unit ? ` ${signal.unit}` : "";
  return signal.unit === "%" ? percent(value) : `${number(value, signal.digits)}${unit}`;
}

// In the order in which the methods declare them; what none declares has its key as its name.
function known(signals) {
  const told = Object.keys(signals ?? {}).filter((key) => isNumber(signals[key]));
  const order = Object.keys(declared);
  return told.sort((a, b) => order.indexOf(a) - order.indexOf(b))
    .map((key) => ({ key, value: signals[key], ...(declared[key] ?? { name: key, unit: "", digits: 2, note: "" }) }));
}

export const signalWords = (signals, most) =>
  known(signals).slice(0, most).map((each) => `${each.name} ${words(each, each.value)}`).join(", ");

export function showSignals(list, signals) {
  const told = known(signals);
  list.hidden = !told.length;
  const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
  for (const each of told) {
    const row = rows.get(each.key) ?? newRow(list, each);
    rows.delete(each.key);
    setText(row.querySelector("dd span"), words(each, each.value));
    const bar = row.querySelector(".bar-fill");
    if (bar) {
      const share = (each.value - each.low) / (each.high - each.low);
      bar.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
    }
  }
  for (const row of rows.values()) row.remove();
}

function newRow(list, { key, name, note, low, high }) {
  const row = document.createElement("div");
  row.dataset.key = key;
  row.title = note;
  row.append(document.createElement("dt"), document.createElement("dd"));
  setText(row.firstChild, name);
  row.lastChild.append(document.createElement("span"));
  if (isNumber(low) && isNumber(high)) {
    const track = document.createElement("div"), fill = document.createElement("div");
    track.className = "bar-track";
    fill.className = "bar-fill";
    track.append(fill);
    row.lastChild.append(track);
  }
  list.append(row);
  return row;
}
