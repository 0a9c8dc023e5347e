// Where the image lies on the stage. Lengths are CSS pixels of the stage, scale is CSS pixels per image pixel, and
// points of the image are fractions of it.

const LARGEST = 16; // device pixels per image pixel

export class Viewport {
  constructor() {
    Object.assign(this, { width: 1, height: 1, ratio: 1, imageWidth: 1, imageHeight: 1, scale: 1, x: 0, y: 0 });
  }

  // the scale at which the whole image is seen
  get fitted() {
    return Math.min(this.width / this.imageWidth, this.height / this.imageHeight);
  }

  get isFit() {
    return Math.abs(this.scale / this.fitted - 1) < 1e-6;
  }

  // device pixels per image pixel
  get magnification() {
    return this.scale * this.ratio;
  }

  get smallest() {
    return Math.min(this.fitted, 1 / this.ratio);
  }

  get largest() {
    return Math.max(4 * this.fitted, LARGEST / this.ratio);
  }

  open(imageWidth, imageHeight) {
    Object.assign(this, { imageWidth, imageHeight });
    this.fit();
  }

  // the stage's new size; what was in the middle stays there
  resize(width, height, ratio) {
    if (!(width > 0 && height > 0)) return;
    const [wasFit, zoom, middle] = [this.isFit, this.scale / this.fitted, this.toImage(this.width / 2, this.height / 2)];
    Object.assign(this, { width, height, ratio });
    if (wasFit) {
      this.fit();
      return;
    }
    this.#setScale(this.fitted * zoom);
    this.#centre(middle);
  }

  fit() {
    this.scale = this.fitted;
    this.#clamp();
  }

  oneToOne(at = [this.width / 2, this.height / 2]) {
    this.zoom(1 / this.ratio / this.scale, at);
  }

  // by a factor; the point of the image below `at` stays there
  zoom(factor, at = [this.width / 2, this.height / 2]) {
    const [x, y] = this.toImage(...at);
    this.#setScale(this.scale * factor);
    this.x = at[0] - x * this.imageWidth * this.scale;
    this.y = at[1] - y * this.imageHeight * this.scale;
    this.#clamp();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#clamp();
  }

  // moves as little as shows a point of the image
  reveal([x, y]) {
    const [left, top] = this.toStage(x, y);
    this.pan(Math.max(0, -left) + Math.min(0, this.width - left), Math.max(0, -top) + Math.min(0, this.height - top));
  }

  toImage(left, top) {
    return [(left - this.x) / (this.imageWidth * this.scale), (top - this.y) / (this.imageHeight * this.scale)];
  }

  toStage(x, y) {
    return [this.x + x * this.imageWidth * this.scale, this.y + y * this.imageHeight * this.scale];
  }

  // the pixels of the image that are seen: x_min, y_min, x_max, y_max
  seen() {
    const [left, top] = this.toImage(0, 0);
    const [right, bottom] = this.toImage(this.width, this.height);
    return [
      Math.max(0, left * this.imageWidth), Math.max(0, top * this.imageHeight),
      Math.min(this.imageWidth, right * this.imageWidth), Math.min(this.imageHeight, bottom * this.imageHeight),
    ];
  }

  #setScale(scale) {
    this.scale = Math.min(this.largest, Math.max(this.smallest, scale));
  }

  #centre([x, y]) {
    this.x = this.width / 2 - x * this.imageWidth * this.scale;
    this.y = this.height / 2 - y * this.imageHeight * this.scale;
    this.#clamp();
  }

  // no black beside an image that is larger than the stage; a smaller one is in the middle
  #clamp() {
    const place = (at, stage, image) => (image <= stage ? (stage - image) / 2 : Math.min(0, Math.max(stage - image, at)));
    this.x = place(this.x, this.width, this.imageWidth * this.scale);
    this.y = place(this.y, this.height, this.imageHeight * this.scale);
  }
}
