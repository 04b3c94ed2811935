// Spot checks by keys: y, n, s and u press the page's own buttons.

import { typing } from "./app.js";

const PRESS = {
  y: '#answer [value="yes"]',
  n: '#answer [value="no"]',
  s: '#answer [value="skip"]',
  u: "#undo button",
};

document.addEventListener("keydown", (event) => {
  if (typing(event) || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const button = document.querySelector(PRESS[event.key] ?? "none");
  if (!button) return;
  event.preventDefault();
  button.click();
});
