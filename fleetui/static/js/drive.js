// Driving a station by hand: "hold and drive" by keys, pointer or gamepad, on all axes that its body names. Commands
// flow ten times a second only while something is held, each with all axes, and the station holds still by itself when
// they cease (its dead-man).

import { live } from "./live.js";
import { lab, toast } from "./app.js";
import { axisInfo, axisWord, isJoint, keyLines, keyWord, NEXT_JOINT, padLine, pushOf } from "./axes.js";
import { Gamepads } from "./gamepad.js";

const DRIVE_EVERY_MS = 100;
const PAD_EVERY_MS = 50;
const ENDED_MS = 2000;

const clamp = (value) => Math.max(-1, Math.min(1, value));

// `current()` is the station that the page has selected, {slug, drive: its axes, device}, or null.
export class Drive extends EventTarget {
  constructor(current) {
    super();
    this.current = current;
    this.keys = new Set();
    this.pointers = new Map();  // what holds: {axis: value}
    this.pad = {};              // of the gamepad: {axis: value}
    this.gamepads = new Gamepads();
    this.timer = null;
    this.driven = null;         // the station that is being driven, and its axes
    this.chosen = null;         // the joint that the keys move
    this.endedAt = -Infinity;
    window.addEventListener("blur", () => this.release());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.release(); });
    window.addEventListener("pagehide", () => this.release());
    // Where a menu or a chord takes the keyboard, the end of a held key is never told.
    window.addEventListener("contextmenu", () => this.release());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) this.release();
    });
    live.addEventListener("control", ({ detail }) => {
      if (!detail.held) { this.endedAt = performance.now(); this.release(); }
    });
    setInterval(() => this.readPad(), PAD_EVERY_MS);
  }

  get axes() { return this.current()?.drive ?? []; }

  get joints() { return this.axes.filter(isJoint); }

  get joint() { return this.joints.includes(this.chosen) ? this.chosen : this.joints[0] ?? null; }

  get holds() { const station = this.current(); return Boolean(station?.slug) && live.holds(station.slug); }

  get may() { return this.holds && !this.current().device && this.axes.length > 0; }

  // Whether the key pushes something on this body.
  takes(key) { return pushOf(key, this.axes, this.joint) !== null || key === NEXT_JOINT && this.joints.length > 1; }

  // A key that drives must not act a moment after control is gone, when the hand is still on it.
  keeps(key) {
    return this.takes(key) && (this.current().state === "overridden" || performance.now() - this.endedAt < ENDED_MS);
  }

  press(key) {
    if (key === NEXT_JOINT) {
      this.select(this.joints[(this.joints.indexOf(this.joint) + 1) % this.joints.length]);
      toast(`${this.joint} is the selected joint.`);
      return;
    }
    this.keys.add(key);
    this.update();
  }

  lift(key) { if (this.keys.delete(key)) this.update(); }

  select(joint) {
    for (const key of axisInfo(joint).keys.flat()) this.keys.delete(key);   // they pushed another one
    this.chosen = joint;
    this.update();
    this.dispatchEvent(new Event("joint"));
  }

  // What a pointer, or a key on a button, holds; null: it has let go.
  hold(who, push) {
    if (push) this.pointers.set(who, push); else this.pointers.delete(who);
    this.update();
  }

  // Where the gamepad and the keys push the same axis the keys are heard, and before both the pointer.
  wanted() {
    const { drive } = this.driven, keyed = {};
    for (const key of this.keys) {
      const [axis, way] = pushOf(key, drive, this.joint) ?? [];
      if (axis) keyed[axis] = clamp((keyed[axis] ?? 0) + way);
    }
    const held = Object.assign({}, this.pad, keyed, ...this.pointers.values());
    const length = Math.max(1, Math.hypot(held.x ?? 0, held.y ?? 0));   // as fast aslant as straight on
    return Object.fromEntries(drive.map((axis) =>
      [axis, clamp(held[axis] ?? 0) / (axis === "x" || axis === "y" ? length : 1)]));
  }

  // Something is held, or no longer: the stream begins or ends.
  update() {
    const pushed = this.may && (this.keys.size > 0 || this.pointers.size > 0 || Object.keys(this.pad).length > 0);
    if (pushed && !this.timer) {
      const { slug, drive } = this.current();
      this.driven = { slug, drive };
      const send = () => live.drive(lab, slug, this.wanted());
      send();
      this.timer = setInterval(send, DRIVE_EVERY_MS);
    } else if (!pushed && this.timer) {
      clearInterval(this.timer);
      this.timer = null;
      live.drive(lab, this.driven.slug, Object.fromEntries(this.driven.drive.map((axis) => [axis, 0])));
    }
    this.dispatchEvent(new Event("change"));
  }

  release() {
    this.keys.clear();
    this.pointers.clear();
    this.pad = {};
    this.gamepads.forget();
    this.update();
  }

  readPad() {
    const dialog = document.querySelector("dialog[open]");
    if (dialog && this.timer) this.release();   // it has taken the keyboard
    if (!this.holds || document.hidden || !document.hasFocus() || dialog) { this.gamepads.forget(); return; }
    const { axes, handBack } = this.gamepads.read(navigator.getGamepads?.() ?? []);
    this.pad = Object.fromEntries(Object.entries(axes).filter(([axis]) => this.axes.includes(axis)));
    if (handBack) { this.release(); this.dispatchEvent(new Event("handback")); }
    this.update();
  }

  // The picture drives x and y: in the pointer's direction from its middle; half the shorter side is full speed.
  holdPicture(feed, draw) {
    const point = (event) => {
      const box = feed.getBoundingClientRect(), reach = Math.min(box.width, box.height) / 2;
      const x = event.clientX - box.left - box.width / 2, y = event.clientY - box.top - box.height / 2;
      const length = Math.max(1, Math.hypot(x, y) / reach);
      this.hold("picture", { x: x / reach / length, y: -y / reach / length });
      draw({ x: box.width / 2, y: box.height / 2, dx: x / length, dy: y / length });
    };
    feed.addEventListener("pointerdown", (event) => {
      if (!this.may || event.button !== 0 || !(this.axes.includes("x") || this.axes.includes("y"))) return;
      event.preventDefault();
      feed.setPointerCapture(event.pointerId);
      point(event);
    });
    feed.addEventListener("pointermove", (event) => { if (this.pointers.has("picture")) point(event); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      feed.addEventListener(name, () => this.hold("picture", null));
    }
    this.addEventListener("change", () => { if (!this.pointers.has("picture")) draw(null); });
  }
}

// A row of two-way buttons for each axis but x and y, which the picture drives: held, they push.
export class DriveButtons {
  constructor(place, drive) {
    this.place = place;
    this.drive = drive;
    this.shown = "";
    // A long press on a touch screen is a push, and no wish for a menu, which would let go of all.
    place.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
    drive.addEventListener("joint", () => this.mark());
    drive.addEventListener("change", () => this.mark());
  }

  show(axes) {
    if (this.shown === JSON.stringify(axes)) return;
    this.shown = JSON.stringify(axes);
    this.place.replaceChildren(...axes.filter((axis) => axis !== "x" && axis !== "y").map((axis) => this.row(axis)));
    this.mark();
  }

  row(axis) {
    const row = document.createElement("div");
    row.className = "axis";
    row.dataset.axis = axis;
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", axisWord(axis));
    const { ends, keys, mirrored } = axisInfo(axis);
    const name = document.createElement(isJoint(axis) ? "button" : "span");
    name.className = "name";
    name.textContent = axisWord(axis);
    if (isJoint(axis)) {
      name.type = "button";
      name.title = "The keys [ and ] move the selected joint";
      name.addEventListener("click", () => this.drive.select(axis));
    }
    const less = this.button(axis, -1, ends[0], keys[0][0]), more = this.button(axis, 1, ends[1], keys[1][0]);
    row.append(...mirrored ? [more, name, less] : [less, name, more]);
    return row;
  }

  button(axis, way, words, key) {
    const button = document.createElement("button"), hint = document.createElement("kbd");
    button.type = "button";
    button.dataset.way = way;
    hint.textContent = keyWord(key);
    button.append(words, hint);
    if (isJoint(axis)) button.setAttribute("aria-label", `${axisWord(axis)} ${words}`);
    const push = (who) => { if (this.drive.may) this.drive.hold(who, { [axis]: way }); };
    const end = (who) => this.drive.hold(who, null);
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      push(event.pointerId);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(name, (event) => end(event.pointerId));
    }
    const pressing = (event) => event.key === "Enter" || event.key === " ";
    button.addEventListener("keydown", (event) => {
      if (pressing(event) && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) push(button);
    });
    button.addEventListener("keyup", (event) => { if (pressing(event)) end(button); });
    button.addEventListener("blur", () => end(button));
    return button;
  }

  // Which joint the keys move, and which buttons are pushed, by whatever.
  mark() {
    const wanted = this.drive.timer ? this.drive.wanted() : {};
    for (const row of this.place.children) {
      const { axis } = row.dataset, selected = axis === this.drive.joint;
      if (isJoint(axis)) {
        row.querySelector(".name").setAttribute("aria-pressed", String(selected));
        for (const hint of row.querySelectorAll("kbd")) hint.hidden = !selected;
      }
      for (const button of row.querySelectorAll("[data-way]")) {
        button.classList.toggle("held", Number(button.dataset.way) * (wanted[axis] ?? 0) > 0);
      }
    }
  }
}

// The page's list of keys says exactly what this body has; without one, that a station has to be selected.
export function showDriveKeys(axes = null) {
  const place = document.querySelector("[data-drive-keys]"), shown = JSON.stringify(axes);
  if (!place || place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  const line = (keys, words) => {
    const key = document.createElement("span"), text = document.createElement("span");
    key.className = "several";
    key.append(...keys.map((each) => {
      const one = document.createElement("kbd");
      one.textContent = each;
      return one;
    }));
    text.textContent = words;
    return [key, text];
  };
  if (axes === null) {
    place.replaceChildren(...line(["–"], "Select a station first: what drives it differs from body to body"));
    return;
  }
  const lines = keyLines(axes).flatMap(([keys, words]) => line(keys.map(keyWord), words));
  place.replaceChildren(...lines.length ? [...lines, ...line(["gamepad"], padLine(axes))]
    : line(["–"], "Nothing drives this body by hand: it names no axis"));
}
