// The steps-to-go strip, the same on the wall (small), on the station and in the replay (large): time runs to the
// right, steps-to-go upwards, probability mass as shade, E[d] as a line, the threshold s as a hairline, the largest
// rises of d (where something went wrong) as ticks below, human steps as a bar above. The newest distribution stands at
// the right edge.

import { colour, isNumber, withAlpha } from "./format.js";

const strips = new Set();

export class Strip {
  constructor(canvas, { large = false } = {}) {
    this.canvas = canvas;
    this.large = large;
    this.limit = 1;
    this.threshold = null;
    this.cursor = null;
    this.axis = { every: 0, text: String, unit: "steps" }; // every 0: as many numbers as there is room for
    this.clear();
    this.pending = false;
    strips.add(this);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  clear() {
    this.d = [];            // d per step, null where unknown
    this.mass = [];         // distribution per step, where this page saw it
    this.human = [];
    this.starts = [];       // steps at which another episode begins, where the strip shows more than one
    this.newest = null;
    this.binWidth = 2;
    this.draw();
  }

  // One telemetry message of the running episode; a step that goes back is a new episode.
  add({ step, d, distribution, bin_width, threshold, limit, human }) {
    if (!isNumber(step)) return;
    if (step < this.d.length - 1 && step < 2) this.clear();
    if (isNumber(bin_width)) this.binWidth = bin_width;
    if (isNumber(threshold)) this.threshold = threshold;
    if (isNumber(limit) && limit > 0) this.limit = limit;
    this.d[step] = isNumber(d) ? d : null;
    this.human[step] = Boolean(human);
    if (distribution?.length) { this.mass[step] = distribution; this.newest = distribution; }
    this.draw();
  }

  setTrace(d, { threshold, limit, actors, starts } = {}) {
    this.d = d.map((value) => isNumber(value) ? value : null);
    this.human = actors ?? [];
    this.starts = starts ?? [];
    this.threshold = isNumber(threshold) ? threshold : this.threshold;
    this.limit = Math.max(limit || 1, d.length - 1);
    this.draw();
  }

  setCursor(step) { this.cursor = step; this.draw(); }

  // The steps where d rose most within a second of robot time: the events worth looking at.
  events(most = 5) {
    const rises = [];
    for (let t = 1, from = 0; t < this.d.length; t++) {
      if (this.starts.includes(t)) from = t;
      // Every paint of every strip comes by here: nothing is allocated.
      let before = Infinity;
      for (let s = Math.max(from, t - 3); s < t; s++) if (isNumber(this.d[s]) && this.d[s] < before) before = this.d[s];
      const now = this.d[t];
      if (isNumber(now) && now - before > 2) rises.push({ step: t, rise: now - before });
    }
    rises.sort((a, b) => b.rise - a.rise);
    const chosen = [];
    for (const each of rises) {
      if (chosen.length === most) break;
      if (chosen.every((other) => Math.abs(other.step - each.step) > 4)) chosen.push(each);
    }
    return chosen;
  }

  geometry() {
    const margin = this.large ? { left: 34, right: this.newest ? 62 : 44, top: 8, bottom: 20 }
      : { left: 0, right: 26, top: 1, bottom: 4 };
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    const seen = this.d.reduce((most, value) => isNumber(value) && value > most ? value : most, 0);
    const top = this.newest ? Math.max(this.newest.length * this.binWidth, 1)
      : Math.max(20, 20 * Math.ceil(seen * 1.05 / 20));
    return {
      ...margin, width, height, top_value: top,
      x: (step) => margin.left + (width - margin.left - margin.right) * step / Math.max(1, this.limit),
      y: (d) => height - margin.bottom - (height - margin.top - margin.bottom) * Math.min(d, top) / top,
    };
  }

  stepAt(clientX) {
    const g = this.geometry();
    const x = clientX - this.canvas.getBoundingClientRect().left;
    return Math.round((x - g.left) / Math.max(1, g.width - g.left - g.right) * this.limit);
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.paint(); });
  }

  paint() {
    const canvas = this.canvas, g = this.geometry(), ratio = window.devicePixelRatio || 1;
    if (!g.width || !g.height) return;
    if (canvas.width !== Math.round(g.width * ratio) || canvas.height !== Math.round(g.height * ratio)) {
      canvas.width = Math.round(g.width * ratio);
      canvas.height = Math.round(g.height * ratio);
    }
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, g.width, g.height);
    const ink = colour("ink"), soft = colour("ink-3"), line = colour("line"), right = g.width - g.right;

    c.fillStyle = colour("sunken");
    c.fillRect(g.left, g.top, right - g.left, g.height - g.top - g.bottom);
    if (this.large) this.paintAxes(c, g, soft, line, right);

    // A fast station tells of some steps only: each column reaches back to the one before it.
    const wide = Math.max(1, g.x(1) - g.x(0)) + 0.5;
    let reached = null;
    this.mass.forEach((bins, step) => {
      const from = reached === null ? step : Math.max(reached + 1, step - 15);
      reached = step;
      const peak = Math.max(...bins);
      bins.forEach((p, bin) => {
        if (p < 0.01) return;
        c.fillStyle = withAlpha(ink, Math.min(0.55, 0.08 + 0.5 * p / Math.max(peak, 0.12)));
        const y = g.y((bin + 1) * this.binWidth);
        const x = Math.min(g.x(from), right - wide);
        c.fillRect(x, y, Math.min(g.x(step + 1), right) - x + 0.5, g.y(bin * this.binWidth) - y + 0.5);
      });
    });

    if (isNumber(this.threshold)) {
      c.strokeStyle = colour("ink-2"); c.lineWidth = 1; c.setLineDash([3, 3]);
      c.beginPath();
      c.moveTo(g.left, Math.round(g.y(this.threshold)) + .5);
      c.lineTo(right, Math.round(g.y(this.threshold)) + .5);
      c.stroke();
      c.setLineDash([]);
    }
    c.fillStyle = colour("overridden");
    this.human.forEach((human, step) => { if (human) c.fillRect(g.x(step), g.top, wide, this.large ? 6 : 3); });

    c.strokeStyle = ink; c.lineWidth = this.large ? 2 : 1.5; c.lineJoin = "round";
    c.beginPath();
    let pen = false;
    this.d.forEach((value, step) => {
      if (this.starts.includes(step)) pen = false;
      if (!isNumber(value)) { pen = false; return; }
      if (pen) c.lineTo(g.x(step), g.y(value)); else c.moveTo(g.x(step), g.y(value));
      pen = true;
    });
    c.stroke();

    c.strokeStyle = line; c.lineWidth = 1;
    for (const step of this.starts) {
      c.beginPath();
      c.moveTo(g.x(step), g.top);
      c.lineTo(g.x(step), g.height - g.bottom);
      c.stroke();
    }

    c.strokeStyle = ink; c.lineWidth = this.large ? 3 : 2;
    for (const { step } of this.events(this.large ? 5 : 3)) {
      c.beginPath();
      c.moveTo(g.x(step), g.height - g.bottom);
      c.lineTo(g.x(step), g.height - g.bottom + (this.large ? 7 : 4));
      c.stroke();
    }

    if (this.newest) {
      const peak = Math.max(...this.newest, 1e-6), room = g.right - (this.large ? 14 : 5);
      c.fillStyle = colour("ink-2");
      this.newest.forEach((p, bin) => {
        const y = g.y((bin + 1) * this.binWidth);
        c.fillRect(right + (this.large ? 8 : 3), y, room * p / peak,
          Math.max(1, g.y(bin * this.binWidth) - y - (this.large ? .6 : 0)));
      });
    }
    if (isNumber(this.cursor)) {
      c.strokeStyle = ink; c.lineWidth = 1;
      c.beginPath(); c.moveTo(g.x(this.cursor), g.top - 4); c.lineTo(g.x(this.cursor), g.height - g.bottom); c.stroke();
      c.fillStyle = ink;
      if (isNumber(this.d[this.cursor])) {
        c.beginPath();
        c.arc(g.x(this.cursor), g.y(this.d[this.cursor]), 4, 0, 7);
        c.fill();
      }
    }
  }

  paintAxes(c, g, soft, line, right) {
    c.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    c.fillStyle = soft; c.strokeStyle = line; c.lineWidth = 1;
    c.textAlign = "right"; c.textBaseline = "middle";
    for (let i = 0; i <= 4; i++) {
      const value = g.top_value * i / 4, y = Math.round(g.y(value)) + .5;
      c.beginPath(); c.moveTo(g.left, y); c.lineTo(right, y); c.stroke();
      c.fillText(String(Math.round(value)), g.left - 6, Math.min(Math.max(y, 10), g.height - g.bottom));
    }
    c.textBaseline = "top"; c.textAlign = "center";
    const every = this.axis.every
      || ([1, 2, 5, 10, 20, 25, 50, 100, 200, 500].find((each) => this.limit / each <= 10) ?? 1000);
    for (let step = 0; step <= this.limit; step += every) {
      c.fillText(this.axis.text(step), g.x(step), g.height - g.bottom + 8);
    }
    c.textAlign = "right";
    c.fillText(this.axis.unit, g.width - 2, g.height - g.bottom + 8);
  }
}

document.addEventListener("themechange", () => { for (const strip of strips) strip.draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const strip of strips) strip.draw();
});
