// A gamepad as a hand on the stick, read so that one at rest moves nothing: pedals rest at -1, worn sticks beside
// zero, and a button may be stuck. It knows neither page nor station: it is given navigator.getGamepads() and says
// what is wanted.

const DEAD_ZONE = 0.2;          // of a stick that nobody touches; beyond it speed begins at zero
const NEAR_ZERO = 0.15;
const RESTING_READS = 5;        // so often on end near zero is at rest; a worn stick that is pushed passes zero faster
const HAND_BACK = 0;            // button A

const clamp = (value) => Number.isFinite(value) ? Math.max(-1, Math.min(1, value)) : 0;

// What is known of one gamepad since control was taken.
class Pad {
  constructor() {
    this.rested = [0, 0];       // reads near zero on end, of each axis of the left stick
    this.released = new Set();  // buttons that were seen released: only these can be pressed
  }

  read(pad) {
    const stick = [0, 1].map((axis) => clamp(pad.axes[axis]));
    stick.forEach((value, axis) => {
      if (this.rested[axis] >= RESTING_READS) return;
      this.rested[axis] = Math.abs(value) < NEAR_ZERO ? this.rested[axis] + 1 : 0;
    });
    const pressed = new Set();
    pad.buttons.forEach((button, index) => {
      if (!button.pressed) this.released.add(index);
      else if (this.released.delete(index)) pressed.add(index);
    });
    const [x, y] = stick.map((value, axis) => this.rested[axis] >= RESTING_READS ? value : 0);
    const length = Math.hypot(x, y), speed = (Math.min(1, length) - DEAD_ZONE) / (1 - DEAD_ZONE);
    return { direction: speed > 0 ? [x * speed / length, -y * speed / length] : null, pressed };
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

  // To be called often while a person is in control. Returns {direction: [dx, dy] or null, handBack}.
  read(found) {
    // Only of the standard mapping is it known which axes are the stick and which the pedals.
    const present = [...found].filter((pad) => pad?.connected && pad.mapping === "standard");
    for (const index of this.pads.keys()) if (!present.some((pad) => pad.index === index)) this.pads.delete(index);
    if (!this.pads.has(this.chosen)) this.chosen = null;
    this.choose ||= present.length > 1;
    let direction = null, handBack = false;
    for (const pad of present) {
      if (!this.pads.has(pad.index)) this.pads.set(pad.index, new Pad());
      const read = this.pads.get(pad.index).read(pad);
      const drives = this.choose ? this.chosen === pad.index : true;
      if (drives) { direction = read.direction; handBack = read.pressed.has(HAND_BACK); }
      else if (read.pressed.size > 0) { this.chosen = pad.index; direction = read.direction; }
    }
    return { direction, handBack };
  }
}
