// A gamepad as a hand on a body's axes, read so that one at rest moves nothing: pedals rest at -1, worn sticks beside
// zero, and a button may be stuck. It knows neither page nor station: it is given navigator.getGamepads() and says
// what is wanted.

const DEAD_ZONE = 0.2;          // of a stick that nobody touches; beyond it speed begins at zero
const NEAR_ZERO = 0.15;
const RESTING_READS = 5;        // so often on end near zero is at rest; a worn stick that is pushed passes zero faster
const HAND_BACK = 0;            // button A
// Of the standard mapping: bumpers and triggers, then the d-pad's up, down, left and right.
const BUTTONS = [[4, "gripper", 1], [6, "gripper", 1], [5, "gripper", -1], [7, "gripper", -1],
  [12, "pitch", 1], [13, "pitch", -1], [14, "roll", -1], [15, "roll", 1]];

const clamp = (value) => Number.isFinite(value) ? Math.max(-1, Math.min(1, value)) : 0;

function beyondDeadZone(x, y) {
  const length = Math.hypot(x, y), speed = (Math.min(1, length) - DEAD_ZONE) / (1 - DEAD_ZONE);
  return speed > 0 ? [x * speed / length, y * speed / length] : [0, 0];
}

// What is known of one gamepad since control was taken.
class Pad {
  constructor() {
    this.rested = [0, 0, 0, 0]; // reads near zero on end, of each axis of the two sticks
    this.released = new Set();  // buttons that were seen released: only these can be pressed
    this.held = new Set();      // those that were pressed since, and are still
  }

  read(pad) {
    const sticks = [0, 1, 2, 3].map((axis) => clamp(pad.axes[axis]));
    sticks.forEach((value, axis) => {
      if (this.rested[axis] >= RESTING_READS) return;
      this.rested[axis] = Math.abs(value) < NEAR_ZERO ? this.rested[axis] + 1 : 0;
    });
    const pressed = new Set();
    pad.buttons.forEach((button, index) => {
      if (!button.pressed) { this.released.add(index); this.held.delete(index); }
      else if (this.released.delete(index)) { pressed.add(index); this.held.add(index); }
    });
    const [x, y, turn, lift] = sticks.map((value, axis) => this.rested[axis] >= RESTING_READS ? value : 0);
    const axes = {};
    const push = (axis, value) => {
      const pushed = clamp((axes[axis] ?? 0) + value);
      if (pushed) axes[axis] = pushed; else delete axes[axis];   // both ways at once are none
    };
    const left = beyondDeadZone(x, y), right = beyondDeadZone(turn, lift);
    push("x", left[0]);
    push("y", -left[1]);
    push("yaw", -right[0]);
    push("z", -right[1]);
    for (const [button, axis, way] of BUTTONS) if (this.held.has(button)) push(axis, way);
    return { axes, pressed };
  }
}

export class Gamepads {
  constructor() { this.forget(); }

  // Nobody is in control, or nobody looks: what was seen of the gamepads counts no longer.
  forget() {
    this.pads = new Map();      // index -> Pad
    this.chosen = null;         // index of the gamepad that drives
    this.choose = false;        // several were there: one of them has to be chosen by a press
  }

  // To be called often while a person is in control. Returns {axes: from -1 to 1 by name, handBack}.
  read(found) {
    // Only of the standard mapping is it known which axes are the sticks and which the pedals.
    const present = [...found].filter((pad) => pad?.connected && pad.mapping === "standard");
    for (const index of this.pads.keys()) if (!present.some((pad) => pad.index === index)) this.pads.delete(index);
    if (!this.pads.has(this.chosen)) this.chosen = null;
    this.choose ||= present.length > 1;
    let axes = {}, handBack = false;
    for (const each of present) {
      if (!this.pads.has(each.index)) this.pads.set(each.index, new Pad());
      const pad = this.pads.get(each.index), read = pad.read(each);
      const drives = this.choose ? this.chosen === each.index : true;
      if (drives) { axes = read.axes; handBack = read.pressed.has(HAND_BACK); }
      else if (read.pressed.size > 0) { this.chosen = each.index; pad.held.clear(); }   // that press does no more
    }
    return { axes, handBack };
  }
}
