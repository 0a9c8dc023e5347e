// What is drawn over the image: regions with the cells that they count as, the highest cell, grips, a cursor.

import { gripsOf, limit } from "./boxes.js";

const SVG = "http://www.w3.org/2000/svg";
const GRIP = 10; // CSS pixels
const MOST_LINES = 64; // of a grid: more would hide the image

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function rectangle(view, kind, box) {
  const [[left, top], [right, bottom]] = [view.toStage(box.x_min, box.y_min), view.toStage(box.x_max, box.y_max)];
  return element("rect", { class: kind, x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) });
}

export function regionMarks(view, box, i, { isStrong, isSelected, cells, map }) {
  const strong = isStrong && !isSelected ? " strong" : ""; // what is selected has grips
  const parts = [];
  if (cells && map) parts.push(rectangle(view, `cells ${box.kind}`, cellsBox(cells, map)));
  parts.push(rectangle(view, "shade", box), rectangle(view, `box ${box.kind}${strong}`, box), label(view, box, i));
  if (isSelected) parts.push(...gripsOf(box).map(({ x, y }) => grip(view, x, y)));
  return parts;
}

// first column, first row, last column, last row of the cells that a region counts as: as `box_cells` of the server
// has it, which says so again when the region is in force; null: it lies beside what the model sees
export function cellsOf(box, { width, height, frame }) {
  const across = cellsAlong(box.x_min, box.x_max, frame[0], frame[2], width);
  const down = cellsAlong(box.y_min, box.y_max, frame[1], frame[3], height);
  return across && down && [across[0], down[0], across[1], down[1]];
}

// those with their centre between low and high, or the one below the middle
function cellsAlong(low, high, from, to, num) {
  const [a, b] = [low, high].map((value) => num * limit((value - from) / (to - from)));
  if (a >= b) return null;
  const [first, last] = [Math.ceil(a - 0.5), Math.floor(b - 0.5)];
  const middle = Math.min(num - 1, Math.floor((a + b) / 2));
  return first <= last ? [first, last] : [middle, middle];
}

// first column, first row, last column, last row -> the part of the image that they cover
export function cellsBox([left, top, right, bottom], { width, height, frame }) {
  const [across, down] = [(frame[2] - frame[0]) / width, (frame[3] - frame[1]) / height];
  return {
    x_min: frame[0] + left * across, x_max: frame[0] + (right + 1) * across,
    y_min: frame[1] + top * down, y_max: frame[1] + (bottom + 1) * down,
  };
}

export function grid(view, { width, height, frame }) {
  if (width > MOST_LINES || height > MOST_LINES) return [];
  const lines = [];
  const add = (a, b) => {
    const [[x1, y1], [x2, y2]] = [view.toStage(...a), view.toStage(...b)];
    lines.push(element("line", { class: "grid", x1, y1, x2, y2 }));
  };
  for (let i = 0; i <= width; i++) {
    const x = frame[0] + (i / width) * (frame[2] - frame[0]);
    add([x, frame[1]], [x, frame[3]]);
  }
  for (let j = 0; j <= height; j++) {
    const y = frame[1] + (j / height) * (frame[3] - frame[1]);
    add([frame[0], y], [frame[2], y]);
  }
  return lines;
}

export function crosshair(view, [x, y]) {
  const [left, top] = view.toStage(x, y);
  const [[x0, y0], [x1, y1]] = [view.toStage(0, 0), view.toStage(1, 1)];
  const lines = [{ x1: x0, x2: x1, y1: top, y2: top }, { x1: left, x2: left, y1: y0, y2: y1 }];
  return lines.flatMap((line) => ["cursor under", "cursor"].map((kind) => element("line", { class: kind, ...line })));
}

function label(view, box, i) {
  const [x, y] = view.toStage(box.x_min, box.y_min);
  const text = element("text", { class: `tag ${box.kind}`, x, y, dx: 6, dy: 18 });
  text.textContent = `${box.kind === "positive" ? "+" : "\u2212"}${i + 1}`;
  return text;
}

function grip(view, x, y) {
  const [left, top] = view.toStage(x, y);
  return element("rect", { class: "grip", x: left - GRIP / 2, y: top - GRIP / 2, width: GRIP, height: GRIP });
}
