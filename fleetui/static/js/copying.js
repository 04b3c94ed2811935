// Buttons that copy a text of the page: what their element says, or the whole of what it shows the beginning of.

import { toast } from "./app.js";
import { setText } from "./format.js";

async function copy(element) {
  const text = element.dataset.whole ?? element.textContent;
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {                                                 // no permission, or plain http: the old way, then by hand
    setText(element, text);
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy));
    button.textContent = done ? "Copied" : "Copy";
    if (!done) toast("This browser does not let the page copy: the text is selected, press Ctrl+C.", "error");
  });
}
