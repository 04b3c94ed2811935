// Keypoints of an attempt over a camera's picture: numbered, joined, and movable by whoever may act. The camera's plane
// leads from metres on the table to shares of the picture.

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 9;                     // pixels
const NUDGE = 0.01;                   // metres, by an arrow key
const WAYS = { ArrowLeft: [-NUDGE, 0], ArrowRight: [NUDGE, 0], ArrowUp: [0, NUDGE], ArrowDown: [0, -NUDGE] };

const mapped = (h, x, y) => {
  const scale = h[6] * x + h[7] * y + h[8];
  return [(h[0] * x + h[1] * y + h[2]) / scale, (h[3] * x + h[4] * y + h[5]) / scale];
};

// By cofactors; a plane that nothing can be read back from gives numbers that are none.
function inverse([a, b, c, d, e, f, g, h, i]) {
  const by = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [e * i - f * h, c * h - b * i, b * f - c * e, f * g - d * i, a * i - c * g, c * d - a * f,
    d * h - e * g, b * g - a * h, a * e - b * d].map((each) => each / by);
}

export class Marks {
  // `move(number, x, y)` in metres; none where nobody may.
  constructor(feed, plane, move) {
    this.feed = feed;
    this.plane = plane;
    this.back = inverse(plane);
    this.move = move || null;
    this.svg = feed.querySelector(".marks");
    this.svg.classList.toggle("movable", Boolean(move));
    this.line = this.svg.appendChild(document.createElementNS(SVG, "polyline"));
    this.points = [];
    this.held = null;  // {number, place} while one is dragged
    this.handles = [];
  }

  show(points) {
    if (this.held) return;
    this.points = points;
    this.draw();
  }

  // Where the picture lies in the feed: it is fitted in, so that bars may stand beside it.
  get picture() {
    const canvas = this.feed.querySelector("canvas");
    const { clientWidth: width, clientHeight: height } = this.svg;
    const scale = Math.min(width / canvas.width, height / canvas.height);
    const [w, h] = [canvas.width * scale, canvas.height * scale];
    return { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h };
  }

  draw() {
    this.svg.toggleAttribute("hidden", !this.points.length);
    const box = this.picture;
    const at = this.points.map(([x, y], number) => {
      const [u, v] = mapped(this.plane, ...(this.held?.number === number ? this.held.place : [x, y]));
      return [box.left + u * box.width, box.top + v * box.height];
    });
    this.line.setAttribute("points", at.map((each) => each.join(",")).join(" "));
    while (this.handles.length > at.length) this.handles.pop().remove();
    while (this.handles.length < at.length) this.handles.push(this.newHandle(this.handles.length));
    at.forEach(([x, y], number) => this.handles[number].setAttribute("transform", `translate(${x},${y})`));
  }

  newHandle(number) {
    const handle = this.svg.appendChild(document.createElementNS(SVG, "g"));
    const circle = handle.appendChild(document.createElementNS(SVG, "circle"));
    circle.setAttribute("r", String(RADIUS));
    handle.appendChild(document.createElementNS(SVG, "text")).textContent = String(number + 1);
    if (!this.move) return handle;
    handle.setAttribute("tabindex", "0");
    handle.setAttribute("role", "button");
    handle.setAttribute("aria-label", `Keypoint ${number + 1}; drag it, or move it by the arrow keys`);
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      this.held = { number, place: this.points[number] };
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (this.held?.number !== number) return;
      const box = this.picture, frame = this.svg.getBoundingClientRect();
      const u = (event.clientX - frame.left - box.left) / box.width;
      const v = (event.clientY - frame.top - box.top) / box.height;
      this.held.place = mapped(this.back, u, v);
      this.draw();
    });
    const drop = (moved) => {
      if (this.held?.number !== number) return;
      const place = this.held.place;
      this.held = null;
      if (moved && place !== this.points[number]) this.put(number, place);
      else this.draw();
    };
    handle.addEventListener("pointerup", () => drop(true));
    handle.addEventListener("pointercancel", () => drop(false));
    handle.addEventListener("keydown", (event) => {
      const way = WAYS[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();  // arrow keys also drive
      this.put(number, [this.points[number][0] + way[0], this.points[number][1] + way[1]]);
    });
    return handle;
  }

  put(number, place) {
    this.points = this.points.map((each, index) => index === number ? place : each);
    this.draw();
    this.move(number, ...place);
  }
}
