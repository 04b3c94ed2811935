// The cameras of one episode, side by side and in step. `base` is the episode's address in the API.

import { setText } from "./format.js";

const AHEAD = 12;
const KEPT = 400;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function refusal(answer, what) {
  const body = await answer.json().catch(() => ({}));
  return new Error(body.detail || `The server answered ${answer.status} for ${what}.`);
}

// What a job has to make first is answered with 202 until it is there.
export async function askUntilMade(url, what) {
  for (let attempt = 0; attempt < 120; attempt++) {
    const answer = await fetch(url);
    if (answer.status === 200) return answer;
    if (answer.status !== 202) throw await refusal(answer, what);
    await pause(attempt < 5 ? 300 : 1000);
  }
  throw new Error(`The server did not make ${what} within two minutes. Is the worker running?`);
}

export class Feeds {
  constructor({ base, last, first }) {
    Object.assign(this, { base, last, first, feeds: null, wanted: 0, pictures: new Map() });
  }

  // Resolves to the cameras that have pictures.
  async open(at) {
    try {
      const answer = await askUntilMade(`${this.base}/cameras`, "the pictures of this episode");
      this.feeds = this.make((await answer.json()).cameras);
    } catch (error) { setText(this.first.querySelector(".note"), error.message); }
    this.draw(at());
    return (this.feeds ?? []).filter(({ missing }) => !missing).map(({ name }) => name);
  }

  // A feed for each camera. What they are called comes from a robot's program: text, never HTML.
  make(cameras) {
    const { first } = this, box = first.parentElement;
    box.dataset.cameras = cameras.length;
    const elements = cameras.map((_, i) => i === 0 ? first : first.cloneNode(true));
    return cameras.map(({ name, missing }, i) => {
      const element = elements[i];
      if (i > 0) { element.removeAttribute("id"); box.append(element); }
      if (name) element.querySelector("canvas").setAttribute("aria-label", `Camera ${name} at the chosen step`);
      element.dataset.camera = name;
      if (missing) setText(element.querySelector(".note"), missing);
      if (cameras.length > 1) {
        const which = document.createElement("span");
        which.className = "which";
        which.textContent = name;
        element.append(which);
      }
      return { element, name, missing };
    });
  }

  picture(name, at) {
    const { pictures } = this, key = JSON.stringify([name, at]);
    if (pictures.has(key)) return pictures.get(key);
    const load = (async () => {
      const answer = await fetch(`${this.base}/frames/${at}.jpg?${new URLSearchParams({ camera: name })}`);
      if (answer.status !== 200) throw await refusal(answer, "this picture");
      return createImageBitmap(await answer.blob());
    })();
    load.catch(() => pictures.delete(key));
    pictures.set(key, load);
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
    return load;
  }

  // All cameras in step: none shows this step before all have it.
  async draw(at) {
    const mine = ++this.wanted, shown = (this.feeds ?? []).filter(({ missing }) => !missing);
    const loaded = await Promise.allSettled(shown.map(({ name }) => this.picture(name, at)));
    if (mine !== this.wanted) return;
    shown.forEach(({ element, name }, i) => {
      const { value: bitmap, reason } = loaded[i];
      element.classList.toggle("has-frame", Boolean(bitmap));
      if (!bitmap) { setText(element.querySelector(".note"), reason.message); return; }
      const canvas = element.querySelector("canvas");
      canvas.width = bitmap.width; canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      element.dataset.step = at;
      for (let ahead = 1; ahead <= AHEAD; ahead++) {
        if (at + ahead <= this.last) this.picture(name, at + ahead).catch(() => {});
      }
    });
  }
}
