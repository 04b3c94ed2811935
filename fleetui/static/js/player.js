// What replay and rewind share: play and pause, the slider, the strip as a slider, and the jump to the next moment.
// Time is counted in whole numbers, the strip's. `show(at, passing)` draws one of them; passing: on the way, not where
// a person went.

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

  toNextMoment() {
    const moments = this.strip.moments().map((each) => each.step).sort((a, b) => a - b);
    if (moments.length) this.goTo(moments.find((each) => each > this.at) ?? moments[0]);
  }

  // A button for each moment; false: there are none.
  listMoments(list, word, title = () => "") {
    const moments = this.strip.moments().sort((a, b) => a.step - b.step);
    if (moments.length) list.replaceChildren(...moments.map(({ step, rise }) => {
      const row = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.textContent = `${word(step)}: d rose by ${rise.toFixed(1)}`;
      button.title = title(step);
      button.addEventListener("click", () => this.goTo(step));
      row.append(button);
      return row;
    }));
    return moments.length > 0;
  }
}
