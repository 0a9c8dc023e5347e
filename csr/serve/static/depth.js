// The image in full size and depth, in parts that are asked for when they are seen; a bounded number is kept.

import { ApiError, getBytes, getJson } from "./api.js";

export const TILE = 512; // pixels a side, after the reduction
const KEPT = 128; // tiles
const AT_ONCE = 4; // requests
const PREVIEW = 1400; // pixels of the longer side
const BUSY = 503;
const AGAIN_MS = 1000;

export class Depth {
  #path;
  #parts = new Map(); // "x,y,reduce" -> part, the last used last
  #asked = new Set();
  #overview = null; // a promise

  // path of the session; onPart() when more can be shown
  constructor(path, { facts, shown, onPart }) {
    this.#path = path;
    Object.assign(this, { facts, shown, onPart });
  }

  // what the server knows of the session's image, or null if it refuses
  static async of(path, { onPart }) {
    try {
      const [facts, shown] = await Promise.all([getJson(`${path}/depth`), getBytes(`${path}/depth/shown`)]);
      return new Depth(path, { facts, shown: new Uint8Array(shown), onPart });
    } catch (error) {
      if (error instanceof ApiError) return null; // the page goes on with the reduced image
      throw error;
    }
  }

  // the whole image, reduced
  overview() {
    const { width, height } = this.facts;
    const reduce = Math.max(1, Math.ceil(Math.max(width, height) / PREVIEW));
    this.#overview ??= this.#fetch({ x: 0, y: 0, width, height, reduce }).then((part) => {
      if (!part) this.#overview = null;
      return part;
    });
    return this.#overview;
  }

  // parts of what is seen (pixels of the image) that are there, and whether all are; the others are asked for
  parts([left, top, right, bottom], reduce) {
    const side = TILE * reduce;
    const there = [];
    let wanted = 0;
    for (let y = Math.floor(top / side) * side; y < bottom; y += side) {
      for (let x = Math.floor(left / side) * side; x < right; x += side) {
        wanted += 1;
        const part = this.#part(x, y, reduce);
        if (part) there.push(part);
      }
    }
    return { there, isWhole: there.length === wanted };
  }

  #part(x, y, reduce) {
    const key = `${x},${y},${reduce}`;
    const known = this.#parts.get(key);
    if (known) {
      this.#parts.delete(key);
      this.#parts.set(key, known);
      return known;
    }
    if (this.#asked.has(key) || this.#asked.size >= AT_ONCE) return null;
    this.#asked.add(key);
    const [width, height] = [
      Math.min(TILE * reduce, this.facts.width - x), Math.min(TILE * reduce, this.facts.height - y),
    ];
    this.#fetch({ x, y, width, height, reduce }).then((part) => {
      this.#asked.delete(key);
      if (!part) return;
      this.#parts.set(key, part);
      while (this.#parts.size > KEPT) this.#parts.delete(this.#parts.keys().next().value);
      this.onPart();
    });
    return null;
  }

  async #fetch({ x, y, width, height, reduce }) {
    const query = `x=${x}&y=${y}&width=${width}&height=${height}&reduce=${reduce}`;
    let bytes;
    try {
      bytes = await getBytes(`${this.#path}/depth/raw?${query}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === BUSY) setTimeout(this.onPart, AGAIN_MS);
      return null;
    }
    const raw = this.facts.bits === 8 ? new Uint8Array(bytes) : new Uint16Array(bytes);
    return {
      x, y, reduce, raw, columns: Math.ceil(width / reduce), rows: Math.ceil(height / reduce), table: null, canvas: null,
    };
  }
}
