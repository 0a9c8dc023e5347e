// The image: zoom and pan, regions drawn, moved and resized, by mouse, touch or keyboard.

import { fromCorners, isLarge, moved, resized } from "./boxes.js";
import { Keys } from "./keys.js";
import { cellsBox, cellsOf, crosshair, grid, rectangle, regionMarks } from "./marks.js";
import { Pointers } from "./pointers.js";
import { Viewport } from "./viewport.js";

const WAIT_MS = 700; // after the last arrow key: then a region has been moved

export class Stage {
  #later = 0;

  // on: box(box), change(i, box), remove(i), tool(name), window(phase, right, down), view(), select(i), say(text)
  constructor(element, on) {
    Object.assign(this, { element, on, view: new Viewport(), tool: "look", selected: null, hand: false });
    this.marks = element.querySelector("svg");
    this.heat = element.querySelector("#heat");
    Object.assign(this, { boxes: [], cells: [], map: null, peak: null, cell: null, highlighted: null, hasGrid: false });
    // draft: { i, box }, a region as it is being changed
    Object.assign(this, { cursor: [0.5, 0.5], byKeyboard: false, anchor: null, draft: null });
    element.addEventListener("focus", () => this.draw());
    element.addEventListener("blur", () => {
      this.hand = false;
      this.commit();
      this.draw();
    });
    this.pointers = new Pointers(this);
    this.keys = new Keys(this);
    new ResizeObserver(() => this.#resized()).observe(element);
  }

  // another image, by its size in pixels
  open(width, height) {
    this.cancel();
    Object.assign(this, { selected: null, boxes: [], isNew: true });
    this.#resized();
    this.view.open(width, height);
    this.viewed();
  }

  setTool(tool) {
    this.cancel();
    this.tool = tool;
    this.element.dataset.tool = tool;
    this.draw();
  }

  // boxes as the server has them, with the cells that each counts as; what is not given stays
  show({ boxes, ...rest }) {
    Object.assign(this, { highlighted: null }, rest);
    if (boxes) this.#setBoxes(boxes);
    this.draw();
  }

  #setBoxes(boxes) {
    if (this.isNew) this.boxes = boxes; // nothing was drawn just now
    this.isNew = false;
    const same = this.selected === null ? -1 : boxes.findIndex((box) => sameBox(box, this.boxes[this.selected]));
    if (boxes.length === this.boxes.length + 1 && this.boxes.every((box, i) => sameBox(box, boxes[i]))) {
      this.selected = boxes.length - 1; // just drawn: its grips are there
    } else if (same >= 0) this.selected = same;
    else if (boxes.length !== this.boxes.length) this.selected = null;
    this.boxes = boxes;
    if (!this.pointers.isBusy && !this.#later) this.draft = null;
  }

  select(i) {
    this.commit();
    this.selected = i;
    this.on.select(i);
    this.draw();
  }

  // drops what is being drawn or changed
  cancel() {
    clearTimeout(this.#later);
    this.#later = 0;
    Object.assign(this, { anchor: null });
    this.pointers.drop();
    this.draft = null;
    this.draw();
  }

  // --- what is seen

  zoom(factor, at) {
    this.view.zoom(factor, at);
    this.viewed();
  }

  fit() {
    this.view.fit();
    this.viewed();
  }

  oneToOne(at) {
    this.view.oneToOne(at);
    this.viewed();
  }

  pan(dx, dy) {
    this.view.pan(dx, dy);
    this.viewed();
  }

  reveal(point) {
    this.view.reveal(point);
    this.viewed();
  }

  #resized() {
    const { width, height } = this.element.getBoundingClientRect();
    this.view.resize(width, height, devicePixelRatio);
    this.viewed();
  }

  viewed() {
    this.element.classList.toggle("zoomed", !this.view.isFit);
    this.draw();
    this.on.view();
  }

  // --- edits

  // sets the first corner of a region at the cursor, or its second
  corner() {
    if (this.anchor) {
      this.finish();
      return;
    }
    this.anchor = this.cursor;
    this.on.say("First corner set. Move to the opposite corner and press Enter.");
    this.draw();
  }

  finish() {
    const box = this.anchor && fromCorners(this.tool, this.anchor, this.cursor);
    this.cancel();
    if (box && isLarge(box)) this.on.box(box);
  }

  // moves the selected region by keys, or its right and lower side; one step when the keys rest
  nudge(right, down, isSize) {
    const box = this.draft?.i === this.selected ? this.draft.box : this.boxes[this.selected]; // one may be on its way
    this.draft = { i: this.selected, box: isSize ? resized(box, "se", right, down) : moved(box, right, down) };
    clearTimeout(this.#later);
    this.#later = setTimeout(() => this.commit(), WAIT_MS);
    this.draw();
    return this.draft.box;
  }

  // puts the region that was changed in force; returns whether there was one
  commit() {
    clearTimeout(this.#later);
    this.#later = 0;
    if (!this.draft || this.pointers.isBusy) return false;
    const { i, box } = this.draft;
    const isNew = !sameBox(box, this.boxes[i]);
    if (isNew) this.on.change(i, box); // shown as drawn until the server answers
    else this.draft = null;
    return isNew;
  }

  get isChanging() {
    return Boolean(this.draft);
  }

  // --- drawing

  draw() {
    const { view, tool, map } = this;
    this.#placeHeat();
    const parts = this.hasGrid && map ? grid(view, map) : [];
    if (this.peak && this.cell) {
      const [[x, y], [width, height]] = [this.peak, this.cell];
      const box = { x_min: x - width / 2, y_min: y - height / 2, x_max: x + width / 2, y_max: y + height / 2 };
      parts.push(rectangle(view, "peak", box));
    }
    const live = (box) => map && cellsOf(box, map); // until the server has said so
    this.boxes.forEach((box, i) => {
      const isDraft = this.draft?.i === i;
      parts.push(...regionMarks(view, isDraft ? this.draft.box : box, i, {
        isStrong: i === this.highlighted, isSelected: i === this.selected, cells: isDraft ? live(this.draft.box) : this.cells[i], map,
      }));
    });
    const drawn = this.anchor && fromCorners(tool, this.anchor, this.cursor);
    const counting = drawn && isLarge(drawn) && live(drawn);
    if (counting) parts.push(rectangle(view, `cells ${drawn.kind}`, cellsBox(counting, map)));
    if (drawn) parts.push(rectangle(view, "shade", drawn), rectangle(view, `box ${drawn.kind}`, drawn));
    const isDrawing = tool === "positive" || tool === "negative";
    if (isDrawing && this.byKeyboard && document.activeElement === this.element) parts.push(...crosshair(view, this.cursor));
    this.element.classList.toggle("selecting", this.selected !== null);
    this.marks.replaceChildren(...parts);
  }

  // smooth maps lie on the whole image, cells on their frame
  #placeHeat() {
    const [x0, y0, x1, y1] = this.heat.dataset.kind === "cells" && this.map ? this.map.frame : [0, 0, 1, 1];
    const { fitted, imageWidth, imageHeight, scale } = this.view;
    const [left, top] = this.view.toStage(x0, y0);
    this.heat.style.width = `${(x1 - x0) * imageWidth * fitted}px`;
    this.heat.style.height = `${(y1 - y0) * imageHeight * fitted}px`;
    this.heat.style.transform = `translate(${left}px, ${top}px) scale(${scale / fitted})`;
  }
}

const SIDES = ["kind", "x_min", "y_min", "x_max", "y_max", "concept"];
const sameBox = (a, b) => Boolean(a && b) && SIDES.every((side) => (a[side] ?? null) === (b[side] ?? null));
