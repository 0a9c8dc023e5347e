// The image by keyboard: tools, zoom, and arrow keys that move whatever there is to move.

import { limit } from "./boxes.js";

const STEP = 0.02; // of a side
const LARGE_STEP = 0.1;
const FINE_STEP = 0.005; // of regions that are moved
const PAN_PX = 48;
const ZOOM = 1.25;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TOOLS = { p: "positive", n: "negative", l: "look", w: "window" };

export class Keys {
  #stage;
  #isSize = false; // arrows resize the selected region

  constructor(stage) {
    this.#stage = stage;
    stage.element.addEventListener("keydown", (event) => this.#down(event));
    stage.element.addEventListener("keyup", (event) => { if (event.key === " ") this.#hold(false); });
  }

  #down(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const stage = this.#stage;
    let isDone = true;
    if (event.key in ARROWS) isDone = this.#arrow(event);
    else if (key in TOOLS) this.#tool(TOOLS[key]);
    else if (key === "+" || key === "=") this.#zoom(() => stage.zoom(ZOOM));
    else if (key === "-" || key === "_") this.#zoom(() => stage.zoom(1 / ZOOM));
    else if (key === "0") this.#zoom(() => stage.fit());
    else if (key === "1") this.#zoom(() => stage.oneToOne());
    else if (key === "b") this.#next(event.shiftKey ? -1 : 1);
    else if (key === "r") this.#toggleSize();
    else if (key === " ") this.#hold(true);
    else if (key === "enter") isDone = this.#enter();
    else if (key === "escape") isDone = this.#escape();
    else if (key === "delete" || key === "backspace") isDone = this.#remove();
    else isDone = false;
    if (isDone) event.preventDefault();
  }

  #tool(tool) {
    this.#stage.byKeyboard = true;
    this.#stage.on.tool(tool);
  }

  #zoom(act) {
    const { view, on } = this.#stage;
    act();
    on.say(`Zoom ${Math.round(100 * view.magnification)} percent`);
  }

  #hold(isHeld) {
    this.#stage.hand = isHeld;
    this.#stage.element.classList.toggle("hand", isHeld);
  }

  #arrow(event) {
    const stage = this.#stage;
    const [x, y] = ARROWS[event.key];
    const step = event.shiftKey ? LARGE_STEP : STEP;
    if (stage.tool === "window") {
      stage.on.window("start", 0, 0);
      stage.on.window("move", step * x, step * y);
      stage.on.window("end", 0, 0);
    } else if (stage.tool !== "look") this.#moveCursor(step * x, step * y);
    else if (stage.selected !== null) this.#nudge(x, y, event.shiftKey ? STEP : FINE_STEP);
    else if (!stage.view.isFit) stage.pan(-PAN_PX * x, -PAN_PX * y);
    else return false; // the page scrolls
    return true;
  }

  #moveCursor(right, down) {
    const stage = this.#stage;
    stage.byKeyboard = true;
    stage.cursor = [limit(stage.cursor[0] + right), limit(stage.cursor[1] + down)];
    const [x, y] = stage.cursor.map((value) => Math.round(100 * value));
    stage.on.say(`${x} percent from the left, ${y} percent from the top`);
    stage.reveal(stage.cursor);
  }

  #nudge(x, y, step) {
    const box = this.#stage.nudge(step * x, step * y, this.#isSize);
    const [left, top, right, bottom] = [box.x_min, box.y_min, box.x_max, box.y_max].map((value) => Math.round(100 * value));
    this.#stage.on.say(`${left} to ${right} percent from the left, ${top} to ${bottom} percent from the top`);
    this.#stage.reveal([box.x_max, box.y_max]);
  }

  #next(step) {
    const stage = this.#stage;
    const number = stage.boxes.length;
    if (!number) {
      stage.on.say("There is no region.");
      return;
    }
    if (stage.tool !== "look") stage.on.tool("look");
    const at = stage.selected ?? (step > 0 ? -1 : 0);
    stage.select((at + step + number) % number);
  }

  #toggleSize() {
    this.#isSize = !this.#isSize;
    this.#stage.on.say(this.#isSize ? "Arrow keys resize the region, at its lower right." : "Arrow keys move the region.");
  }

  #enter() {
    const stage = this.#stage;
    if (stage.tool === "positive" || stage.tool === "negative") {
      stage.byKeyboard = true;
      stage.corner();
      return true;
    }
    return stage.commit();
  }

  #escape() {
    const stage = this.#stage;
    if (!stage.anchor && !stage.isChanging && stage.selected === null) return false;
    const isPut = stage.anchor || stage.isChanging;
    stage.cancel();
    if (!isPut) stage.select(null);
    return true;
  }

  #remove() {
    const stage = this.#stage;
    if (stage.selected === null || stage.anchor) return false;
    const i = stage.selected;
    stage.cancel();
    stage.on.remove(i);
    return true;
  }
}
