// The image's pixels on the stage where the small preview is not enough: through another window, or enlarged.

import { greyTable, paint } from "./windowing.js";

const SHARP = 3; // device pixels per image pixel: from here on pixels are squares

export class Picture {
  #canvas;
  #image;
  #viewport;
  #depth = null;
  #overview = null; // the whole image's raw numbers, reduced
  #table = null; // of the window; null: as the model sees it
  #frame = 0;

  constructor(canvas, { image, viewport }) {
    this.#canvas = canvas;
    this.#image = image;
    this.#viewport = viewport;
  }

  get isWindowed() {
    return this.#table !== null;
  }

  // null while it is not known
  open(depth) {
    this.#depth = depth;
    this.#overview = null;
    this.#table = null;
    this.draw();
  }

  // window: centre and width, null as the model sees it; returns a promise (of success) if pixels must come first
  show(window) {
    this.#table = window && greyTable(this.#depth.facts, window);
    this.draw();
    return window && !this.#overview ? this.#load() : null;
  }

  async #load() {
    const depth = this.#depth;
    const overview = await depth.overview();
    if (depth !== this.#depth) return true; // another image is on the page
    this.#overview = overview;
    this.draw();
    return Boolean(overview);
  }

  // at the next frame, once for all that asked
  draw() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.paintNow();
    });
  }

  paintNow() {
    const view = this.#viewport;
    const lacks = this.#lacksPixels();
    const { there, isWhole } = lacks ? this.#parts() : { there: [], isWhole: true };
    this.#canvas.dataset.pending = String(!isWhole || Boolean(this.#table && !this.#overview));
    const isNeeded = Boolean(this.#image.naturalWidth)
      && (!view.isFit || (this.#table && this.#overview) || lacks);
    this.#canvas.hidden = !isNeeded;
    this.#image.classList.toggle("covered", isNeeded);
    if (!isNeeded) {
      if (this.#canvas.width) Object.assign(this.#canvas, { width: 0, height: 0 }); // no pixels are left in it
      return;
    }
    const [width, height] = [Math.round(view.width * view.ratio), Math.round(view.height * view.ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    const context = this.#canvas.getContext("2d", { alpha: false });
    const scale = view.magnification;
    // whole device pixels, so that 1:1 shows every pixel as it is
    const [x, y] = [Math.round(view.x * view.ratio), Math.round(view.y * view.ratio)];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = scale < SHARP;
    context.imageSmoothingQuality = "high";
    context.setTransform(scale, 0, 0, scale, x, y);
    this.#drawBase(context);
    for (const part of there) this.#drawPart(context, part);
  }

  // the preview, in pixels of the image
  #drawBase(context) {
    if (this.#table && this.#overview) this.#drawPart(context, this.#overview);
    else context.drawImage(this.#image, 0, 0, this.#viewport.imageWidth, this.#viewport.imageHeight);
  }

  #drawPart(context, part) {
    const table = this.#table ?? this.#depth.shown;
    if (part.table !== table) this.#paintPart(part, table);
    // a block at the edge may reach beyond the image
    context.drawImage(part.canvas, part.x, part.y, part.columns * part.reduce, part.rows * part.reduce);
  }

  #paintPart(part, table) {
    part.canvas ??= new OffscreenCanvas(part.columns, part.rows);
    const context = part.canvas.getContext("2d", { alpha: false });
    part.pixels ??= context.createImageData(part.columns, part.rows);
    paint(part.raw, this.#depth.facts.channels, table, new Uint32Array(part.pixels.data.buffer));
    context.putImageData(part.pixels, 0, 0);
    part.table = table;
  }

  #lacksPixels() {
    const { imageWidth, magnification } = this.#viewport;
    const preview = this.#table && this.#overview ? this.#overview.columns : this.#image.naturalWidth;
    return preview < imageWidth && (magnification * imageWidth) / preview > 1.02;
  }

  #parts() {
    if (!this.#depth) return { there: [], isWhole: false };
    const reduce = 2 ** Math.max(0, Math.floor(Math.log2(1 / this.#viewport.magnification)));
    return this.#depth.parts(this.#viewport.seen(), Math.min(reduce, this.#depth.facts.max_reduce));
  }
}
