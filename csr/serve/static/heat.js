// Similarity maps as colours over an image: enlarged bilinearly between the centres of cells, or cell by cell. A map
// lies on its frame: x_min, y_min, x_max, y_max as fractions of the image, which it may leave uncovered or reach beyond.

export function paintHeat(canvas, map, { values, low, high, palette, opacity }) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const [left0, top0, right0, bottom0] = map.frame;
  const across = positions(width, map.width, left0, right0);
  const down = positions(height, map.height, top0, bottom0);
  const span = Math.max(high - low, 1e-6);
  let at = 0;
  for (const [top, bottom, dy] of down) {
    for (const [left, right, dx] of across) {
      if (top === null || left === null) {
        at += 4;
        continue;
      }
      const upper = values[top * map.width + left] * (1 - dx) + values[top * map.width + right] * dx;
      const lower = values[bottom * map.width + left] * (1 - dx) + values[bottom * map.width + right] * dx;
      const share = Math.min(1, Math.max(0, (upper * (1 - dy) + lower * dy - low) / span));
      const colour = palette[Math.round(share * (palette.length - 1))];
      pixels.data[at] = colour[0];
      pixels.data[at + 1] = colour[1];
      pixels.data[at + 2] = colour[2];
      pixels.data[at + 3] = Math.round(255 * opacity * share);
      at += 4;
    }
  }
  return { context, pixels };
}

function positions(pixels, cells, low, high) {
  return Array.from({ length: pixels }, (_, i) => {
    const inside = ((i + 0.5) / pixels - low) / (high - low);
    if (inside < 0 || inside > 1) return [null, null, 0];
    const place = Math.min(cells - 1, Math.max(0, inside * cells - 0.5));
    const first = Math.floor(place);
    return [first, Math.min(cells - 1, first + 1), place - first];
  });
}

const SMOOTH_PX = 256; // a side

// asCells: one pixel a cell, of exactly its value; the canvas then lies on the map's frame
export function drawOverlay(canvas, map, options, asCells) {
  const [width, height] = asCells ? [map.width, map.height] : [SMOOTH_PX, SMOOTH_PX];
  Object.assign(canvas, { width, height });
  canvas.dataset.kind = asCells ? "cells" : "smooth";
  const lies = asCells ? { ...map, frame: [0, 0, 1, 1] } : map;
  const { context, pixels } = paintHeat(canvas, lies, options);
  context.putImageData(pixels, 0, 0);
}

export function drawPicture(canvas, image, map, options) {
  // the image first, then the map through a canvas of its own: putImageData would not blend
  const layer = new OffscreenCanvas(canvas.width, canvas.height);
  const { context, pixels } = paintHeat(layer, map, options);
  context.putImageData(pixels, 0, 0);
  const target = canvas.getContext("2d");
  target.clearRect(0, 0, canvas.width, canvas.height);
  target.drawImage(image, 0, 0, canvas.width, canvas.height);
  target.drawImage(layer, 0, 0);
}

// width and height of a cell as fractions of the image
export function cellSize({ width, height, frame }) {
  return [(frame[2] - frame[0]) / width, (frame[3] - frame[1]) / height];
}

export function framePeak(canvas, map, peak) {
  const context = canvas.getContext("2d");
  const [width, height] = cellSize(map);
  const cell = [canvas.width * width, canvas.height * height];
  context.strokeStyle = "#00c8ff";
  context.lineWidth = Math.max(2, canvas.width / 128);
  context.strokeRect(peak[0] * canvas.width - cell[0] / 2, peak[1] * canvas.height - cell[1] / 2, ...cell);
}

export function drawRamp(canvas, palette) {
  const context = canvas.getContext("2d");
  palette.forEach((colour, i) => {
    context.fillStyle = `rgb(${colour.join(",")})`;
    context.fillRect(i, 0, 1, 1);
  });
}
