// What replay and rewind share: play and pause, the slider, the strip as a slider, and the jump to the next event.
// Time is counted in whole numbers, the strip's. `show(at, passing)` draws one of them; passing: on the way, not where
// a person went.

import { typing } from "./app.js";

export class Player {
  constructor({ play, scrub, strip, perSecond, show }) {
    Object.assign(this, { play, scrub, strip, perSecond, show, first: 0, last: 0, at: 0, timer: null });
    play.addEventListener("click", () => this.toggle());
    scrub.addEventListener("input", () => this.goTo(Number(scrub.value)));
    strip.canvas.addEventListener("pointerdown", (event) => {
      strip.canvas.setPointerCapture(event.pointerId);
      this.goTo(strip.stepAt(event.clientX));
    });
    strip.canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.goTo(strip.stepAt(event.clientX));
    });
  }

  range(first, last) {
    Object.assign(this, { first, last });
    Object.assign(this.scrub, { min: first, max: last });
  }

  move(at, passing = false) {
    this.at = Math.max(this.first, Math.min(this.last, at));
    this.scrub.value = this.at;
    this.strip.setCursor(this.at);
    this.show(this.at, passing);
  }

  goTo(at) { this.halt(); this.move(at); }

  toggle() { if (this.timer) this.pause(); else this.start(); }

  start() {
    if (this.at >= this.last) this.move(this.first);
    this.sayPlaying(true);
    clearInterval(this.timer);
    this.timer = setInterval(() => {
      if (this.at >= this.last) this.pause();
      else this.move(this.at + 1, true);
    }, 1000 / this.perSecond());
  }

  pause() { this.halt(); this.move(this.at); }

  halt() {
    clearInterval(this.timer);
    this.timer = null;
    this.sayPlaying(false);
  }

  get playing() { return this.timer !== null; }

  sayPlaying(playing) {
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.play.querySelector("use").setAttribute("href", playing ? "#i-pause" : "#i-play");
  }

  toNextEvent() {
    const events = this.strip.events().map((each) => each.step).sort((a, b) => a - b);
    if (events.length) this.goTo(events.find((each) => each > this.at) ?? events[0]);
  }

  // A button for each event; false: there are none.
  listEvents(list, word, title = () => "") {
    const events = this.strip.events().sort((a, b) => a.step - b.step);
    if (events.length) list.replaceChildren(...events.map(({ step, rise }) => {
      const row = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.textContent = `${word(step)}: d rose by ${rise.toFixed(1)}`;
      button.title = title(step);
      button.addEventListener("click", () => this.goTo(step));
      row.append(button);
      return row;
    }));
    return events.length > 0;
  }

  // Buttons with data-rate choose how fast it plays.
  listenRates(choose) {
    const buttons = document.querySelectorAll("[data-rate]");
    for (const button of buttons) button.addEventListener("click", () => {
      choose(Number(button.dataset.rate));
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      if (this.playing) this.start();
    });
  }

  // The keys of a replay; `more`: those of the page, by key.
  listenKeys(more = {}) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
      const keys = {
        " ": () => this.toggle(),
        ArrowLeft: () => this.goTo(this.at - (event.shiftKey ? 10 : 1)),
        ArrowRight: () => this.goTo(this.at + (event.shiftKey ? 10 : 1)),
        Home: () => this.goTo(this.first),
        End: () => this.goTo(this.last),
        m: () => this.toNextEvent(),
        ...more,
      };
      if (!Object.hasOwn(keys, event.key)) return;
      // A button or a link that has the focus keeps its space bar.
      if (event.key === " " && event.target.closest("a, summary, button:not(#play), input[type=checkbox]")) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
}
