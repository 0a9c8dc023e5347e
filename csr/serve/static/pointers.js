// The image by mouse, pen and fingers: what a press begins, and what its drag does.

import { boxAt, gripAt, limit, moved, resized } from "./boxes.js";

const MOVED_PX = 3; // less is a press
const REACH_PX = { mouse: 9, pen: 14, touch: 22 }; // of a grip
const LINE_PX = 16; // of a wheel that counts lines

export class Pointers {
  #stage;
  #gesture = null;
  #places = new Map(); // id of a pointer that is down -> its place on the stage

  constructor(stage) {
    this.#stage = stage;
    const { element } = stage;
    element.addEventListener("pointerdown", (event) => this.#press(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    element.addEventListener("pointerup", (event) => this.#release(event));
    element.addEventListener("pointercancel", (event) => this.#lose(event));
    element.addEventListener("pointerleave", () => { element.dataset.over = ""; });
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    element.addEventListener("dblclick", (event) => this.#double(event));
    element.addEventListener("touchstart", (event) => { if (event.touches.length > 1) event.preventDefault(); }, { passive: false });
  }

  get isBusy() {
    return this.#gesture !== null;
  }

  drop() {
    this.#gesture = null;
  }

  #wheel(event) {
    const out = event.deltaY > 0;
    if (!event.ctrlKey && out && this.#stage.view.scale <= this.#stage.view.fitted * (1 + 1e-9)) return; // the page scrolls
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : LINE_PX);
    const factor = Math.exp(-limit(pixels, -240, 240) * (event.ctrlKey ? 0.01 : 0.002));
    if (out && this.#stage.view.scale * factor <= this.#stage.view.fitted) this.#stage.fit();
    else this.#stage.zoom(factor, this.#place(event));
  }

  #double(event) {
    if (this.#stage.tool !== "look") return;
    if (!this.#stage.view.isFit) this.#stage.fit();
    else if (this.#stage.view.magnification < 0.95) this.#stage.oneToOne(this.#place(event));
    else this.#stage.zoom(2, this.#place(event));
  }

  #place(event) {
    const frame = this.#stage.element.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  #press(event) {
    const at = this.#place(event);
    this.#stage.byKeyboard = false;
    this.#places.set(event.pointerId, at);
    if (this.#places.size === 2 && event.pointerType === "touch") {
      this.#stage.cancel();
      this.#gesture = { kind: "pinch" };
      return;
    }
    if (this.#gesture || this.#places.size > 1) return;
    this.#stage.commit();
    const begun = this.#begin(event, at);
    if (!begun) return;
    this.#gesture = { ...begun, pointer: event.pointerId, from: at, last: at, moved: false };
    this.#stage.element.setPointerCapture(event.pointerId);
    if (event.button === 1) event.preventDefault(); // no scrolling by the middle button
  }

  #begin(event, at) {
    if (event.button === 1 || (event.button === 0 && this.#stage.hand)) return { kind: "pan" };
    if (event.button !== 0) return null;
    if (this.#stage.tool === "window") {
      this.#stage.on.window("start", 0, 0);
      return { kind: "window" };
    }
    const point = this.#stage.view.toImage(...at);
    const grip = this.#gripAt(event, at);
    if (grip) return { kind: "resize", grip, i: this.#stage.selected, box: this.#stage.boxes[this.#stage.selected] };
    if (this.#stage.tool !== "look") {
      if (!isOn(point)) return null;
      this.#stage.anchor = this.#stage.cursor = point;
      return { kind: "draw" };
    }
    const i = boxAt(this.#stage.boxes, point);
    if (i !== this.#stage.selected) this.#stage.select(i);
    if (i !== null) return { kind: "move", i, box: this.#stage.boxes[i] };
    return this.#stage.view.isFit ? null : { kind: "pan" };
  }

  #gripAt(event, at) {
    if (this.#stage.selected === null || this.#stage.tool === "window") return null;
    const toStage = (x, y) => this.#stage.view.toStage(x, y);
    return gripAt(this.#stage.boxes[this.#stage.selected], at, toStage, REACH_PX[event.pointerType] ?? REACH_PX.mouse);
  }

  #move(event) {
    const at = this.#place(event);
    const before = this.#places.get(event.pointerId);
    if (before) this.#places.set(event.pointerId, at);
    const gesture = this.#gesture;
    if (gesture?.kind === "pinch" && before) this.#pinch(event.pointerId, before, at);
    else if (gesture?.pointer === event.pointerId) this.#drag(gesture, at);
    else if (!before) this.#hover(event, at);
  }

  #drag(gesture, at) {
    const [dx, dy] = [at[0] - gesture.from[0], at[1] - gesture.from[1]];
    gesture.moved ||= Math.hypot(dx, dy) >= MOVED_PX;
    const [width, height] = [this.#stage.view.imageWidth * this.#stage.view.scale, this.#stage.view.imageHeight * this.#stage.view.scale];
    if (gesture.kind === "pan") this.#stage.pan(at[0] - gesture.last[0], at[1] - gesture.last[1]);
    else if (gesture.kind === "window") this.#stage.on.window("move", dx / this.#stage.view.width, dy / this.#stage.view.height);
    else if (gesture.kind === "draw") this.#stage.cursor = this.#stage.view.toImage(...at).map((value) => limit(value));
    else if (gesture.moved && gesture.kind === "move") {
      this.#stage.draft = { i: gesture.i, box: moved(gesture.box, dx / width, dy / height) };
    } else if (gesture.moved && gesture.kind === "resize") {
      this.#stage.draft = { i: gesture.i, box: resized(gesture.box, gesture.grip, dx / width, dy / height) };
    }
    gesture.last = at;
    this.#stage.draw();
  }

  #pinch(id, before, at) {
    const other = [...this.#places].find(([key]) => key !== id)?.[1];
    if (!other) return;
    const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2];
    this.#stage.view.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    this.#stage.view.zoom(Math.max(apart(at) / apart(before), this.#stage.view.fitted / this.#stage.view.scale), middle);
    this.#stage.viewed();
  }

  #hover(event, at) {
    this.#stage.byKeyboard = false;
    const point = this.#stage.view.toImage(...at);
    const grip = this.#gripAt(event, at);
    const isBox = this.#stage.tool === "look" && boxAt(this.#stage.boxes, point) !== null;
    this.#stage.element.dataset.over = grip ?? (isBox ? "box" : isOn(point) ? "image" : "");
    this.#stage.draw();
  }

  #release(event) {
    this.#places.delete(event.pointerId);
    const gesture = this.#gesture;
    if (gesture?.kind === "pinch" || gesture?.kind === "none") {
      this.#gesture = this.#places.size ? { kind: "none" } : null; // the finger that is left does nothing
      return;
    }
    if (gesture?.pointer !== event.pointerId) return;
    this.#drag(gesture, this.#place(event));
    this.#gesture = null;
    if (gesture.kind === "draw") this.#stage.finish();
    else if (gesture.kind === "window") this.#stage.on.window("end", 0, 0);
    else this.#stage.commit();
  }

  #lose(event) {
    this.#places.delete(event.pointerId);
    if (!this.#places.size) this.#stage.cancel();
  }
}

const isOn = ([x, y]) => x >= 0 && x <= 1 && y >= 0 && y <= 1;
