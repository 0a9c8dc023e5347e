// The image: boxes drawn by pointer or keyboard, the frame of the highest cell, a cursor for the keyboard.

const SVG = "http://www.w3.org/2000/svg";
const SMALLEST = 0.01; // of a side; less is a press, not a box
const STEP = 0.02;
const LARGE_STEP = 0.1;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const limit = (value) => Math.min(1, Math.max(0, value));
const percent = (value) => `${100 * value}%`;

export class Stage {
  // onBox({kind, x_min, ..}), onTool(tool), announce(text)
  constructor(element, { onBox, onTool, announce }) {
    Object.assign(this, { element, onBox, onTool, announce });
    this.marks = element.querySelector("svg");
    this.tool = "look";
    this.boxes = [];
    this.peak = null;
    this.cell = null;
    this.cursor = [0.5, 0.5];
    this.anchor = null; // first corner
    this.pointer = null; // id of the one that draws
    element.addEventListener("pointerdown", (event) => this.#press(event));
    element.addEventListener("pointermove", (event) => this.#drag(event));
    element.addEventListener("pointerup", (event) => this.#release(event));
    element.addEventListener("pointercancel", () => this.cancel());
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("focus", () => this.draw());
    element.addEventListener("blur", () => this.draw());
  }

  setTool(tool) {
    this.tool = tool;
    this.element.dataset.tool = tool;
    this.cancel();
  }

  show({ boxes = this.boxes, peak = this.peak, cell = this.cell, highlighted = null }) {
    Object.assign(this, { boxes, peak, cell, highlighted });
    this.draw();
  }

  cancel() {
    this.anchor = null;
    this.pointer = null;
    this.draw();
  }

  #at(event) {
    const frame = this.element.getBoundingClientRect();
    return [limit((event.clientX - frame.left) / frame.width), limit((event.clientY - frame.top) / frame.height)];
  }

  #press(event) {
    if (this.tool === "look" || event.button !== 0 || this.pointer !== null) return;
    this.pointer = event.pointerId;
    this.element.setPointerCapture(event.pointerId);
    this.anchor = this.cursor = this.#at(event);
    this.draw();
  }

  #drag(event) {
    if (event.pointerId !== this.pointer) return;
    this.cursor = this.#at(event);
    this.draw();
  }

  #release(event) {
    if (event.pointerId !== this.pointer) return;
    this.cursor = this.#at(event);
    this.#finish();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (event.key in ARROWS) this.#move(event);
    else if (key === "p" || key === "n") this.onTool(key === "p" ? "positive" : "negative");
    else if (key === "l") this.onTool("look");
    else if (event.key === "Escape" && this.anchor) this.cancel();
    else if ((event.key === "Enter" || event.key === " ") && this.tool !== "look") this.#corner();
    else return;
    event.preventDefault();
  }

  #move(event) {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    this.cursor = this.cursor.map((value, axis) => limit(value + step * ARROWS[event.key][axis]));
    const [x, y] = this.cursor.map((value) => Math.round(100 * value));
    this.announce(`${x} percent from the left, ${y} percent from the top`);
    this.draw();
  }

  #corner() {
    if (this.anchor) {
      this.#finish();
      return;
    }
    this.anchor = this.cursor;
    this.announce("First corner set. Move to the opposite corner and press Enter.");
    this.draw();
  }

  #finish() {
    const box = this.#drawn();
    this.cancel();
    if (box && box.x_max - box.x_min >= SMALLEST && box.y_max - box.y_min >= SMALLEST) this.onBox(box);
  }

  #drawn() {
    if (!this.anchor) return null;
    const [a, b] = [this.anchor, this.cursor];
    return {
      kind: this.tool, x_min: Math.min(a[0], b[0]), y_min: Math.min(a[1], b[1]),
      x_max: Math.max(a[0], b[0]), y_max: Math.max(a[1], b[1]),
    };
  }

  draw() {
    const parts = [];
    if (this.peak && this.cell) {
      parts.push(rectangle("peak", {
        x_min: this.peak[0] - this.cell[0] / 2, y_min: this.peak[1] - this.cell[1] / 2,
        x_max: this.peak[0] + this.cell[0] / 2, y_max: this.peak[1] + this.cell[1] / 2,
      }));
    }
    this.boxes.forEach((box, i) => {
      const strong = i === this.highlighted ? " strong" : "";
      parts.push(rectangle("shade", box), rectangle(`box ${box.kind}${strong}`, box), label(box, i));
    });
    const drawn = this.#drawn();
    if (drawn) parts.push(rectangle("shade", drawn), rectangle(`box ${drawn.kind}`, drawn));
    if (this.tool !== "look" && this.pointer === null && document.activeElement === this.element) {
      parts.push(...crosshair(this.cursor));
    }
    this.marks.replaceChildren(...parts);
  }
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function rectangle(kind, box) {
  return element("rect", {
    class: kind, x: percent(box.x_min), y: percent(box.y_min), width: percent(box.x_max - box.x_min),
    height: percent(box.y_max - box.y_min),
  });
}

function label(box, i) {
  const text = element("text", { class: `tag ${box.kind}`, x: percent(box.x_min), y: percent(box.y_min), dx: 5, dy: 17 });
  text.textContent = `${box.kind === "positive" ? "+" : "\u2212"}${i + 1}`;
  return text;
}

function crosshair([x, y]) {
  const lines = [
    { x1: "0", x2: "100%", y1: percent(y), y2: percent(y) }, { x1: percent(x), x2: percent(x), y1: "0", y2: "100%" },
  ];
  return lines.flatMap((line) => ["cursor under", "cursor"].map((kind) => element("line", { class: kind, ...line })));
}
