// Regions as fractions of the image: drawn, moved, resized, and what a pointer is on.

export const SMALLEST = 0.01; // of a side; less is a press, not a box
const GRIPS = [["nw", 0, 0], ["n", 0.5, 0], ["ne", 1, 0], ["e", 1, 0.5], ["se", 1, 1], ["s", 0.5, 1], ["sw", 0, 1], ["w", 0, 0.5]];

export const limit = (value, low = 0, high = 1) => Math.min(high, Math.max(low, value));

export function fromCorners(kind, a, b) {
  return {
    kind, x_min: Math.min(a[0], b[0]), y_min: Math.min(a[1], b[1]), x_max: Math.max(a[0], b[0]),
    y_max: Math.max(a[1], b[1]), concept: null,
  };
}

export const isLarge = (box) => box.x_max - box.x_min >= SMALLEST && box.y_max - box.y_min >= SMALLEST;

// stays on the image, with its size
export function moved(box, right, down) {
  const [dx, dy] = [limit(right, -box.x_min, 1 - box.x_max), limit(down, -box.y_min, 1 - box.y_max)];
  return { ...box, x_min: box.x_min + dx, x_max: box.x_max + dx, y_min: box.y_min + dy, y_max: box.y_max + dy };
}

// grip: the sides that move, n e s w; stays on the image and no smaller than a press
export function resized(box, grip, right, down) {
  const to = { ...box };
  if (grip.includes("w")) to.x_min = limit(box.x_min + right, 0, box.x_max - SMALLEST);
  if (grip.includes("e")) to.x_max = limit(box.x_max + right, box.x_min + SMALLEST, 1);
  if (grip.includes("n")) to.y_min = limit(box.y_min + down, 0, box.y_max - SMALLEST);
  if (grip.includes("s")) to.y_max = limit(box.y_max + down, box.y_min + SMALLEST, 1);
  return to;
}

export function gripsOf(box) {
  return GRIPS.map(([grip, x, y]) => (
    { grip, x: box.x_min + x * (box.x_max - box.x_min), y: box.y_min + y * (box.y_max - box.y_min) }));
}

// the grip of a box below a point of the stage, or null; reach: CSS pixels
export function gripAt(box, [left, top], toStage, reach) {
  const [[x0, y0], [x1, y1]] = [toStage(box.x_min, box.y_min), toStage(box.x_max, box.y_max)];
  const isInside = left > x0 && left < x1 && top > y0 && top < y1;
  const within = isInside ? Math.min(reach, (x1 - x0) / 3, (y1 - y0) / 3) : reach; // its middle moves it
  let [nearest, found] = [within, null];
  for (const { grip, x, y } of gripsOf(box)) {
    const [gx, gy] = toStage(x, y);
    const away = Math.max(Math.abs(gx - left), Math.abs(gy - top));
    if (away <= nearest) [nearest, found] = [away, grip];
  }
  return found;
}

// the smallest box below a point of the image, or null
export function boxAt(boxes, [x, y]) {
  const area = (box) => (box.x_max - box.x_min) * (box.y_max - box.y_min);
  const hit = boxes.map((box, i) => [box, i]).filter(([box]) => x >= box.x_min && x <= box.x_max && y >= box.y_min && y <= box.y_max);
  return hit.length ? hit.sort(([a], [b]) => area(a) - area(b))[0][1] : null;
}
