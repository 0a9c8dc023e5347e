// Grey levels of raw numbers through a window (DICOM PS3.3 C.11.2.1), as a table: a drag changes the table alone.

// a share of white, 0 to 1
function shareOf(value, { centre, width }, kind) {
  if (kind === "SIGMOID") return 1 / (1 + Math.exp(Math.min(80, Math.max(-80, (-4 * (value - centre)) / width))));
  const [middle, span] = kind === "LINEAR" ? [centre - 0.5, width - 1] : [centre, width];
  if (span <= 0) return value > middle ? 1 : 0;
  return Math.min(1, Math.max(0, (value - middle) / span + 0.5));
}

// half to even, as the server rounds
function rounded(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

// grey level of every raw number; depth as the server describes it
export function greyTable(depth, window) {
  const table = new Uint8Array(depth.levels);
  for (let raw = 0; raw < depth.levels; raw++) {
    const grey = rounded(255 * shareOf(depth.slope * raw + depth.intercept, window, depth.function));
    table[raw] = depth.inverted ? 255 - grey : grey;
  }
  if (depth.padding) table.fill(0, depth.padding[0], depth.padding[1] + 1);
  return table;
}

// raw numbers as opaque pixels; pixels: Uint32Array of as many
export function paint(raw, channels, table, pixels) {
  if (channels === 1) {
    const packed = new Uint32Array(table.length);
    for (let i = 0; i < table.length; i++) packed[i] = 0xff000000 | (table[i] * 0x10101);
    for (let i = 0; i < pixels.length; i++) pixels[i] = packed[raw[i]];
    return;
  }
  for (let i = 0, at = 0; i < pixels.length; i++, at += 3) {
    pixels[i] = 0xff000000 | (table[raw[at + 2]] << 16) | (table[raw[at + 1]] << 8) | table[raw[at]];
  }
}

// the window that a model's table stands for: of its own, or as wide as the values
export function startOf(depth) {
  return depth.window ?? depth.windows[depth.windows.length - 1];
}

// a window after a drag over shares of the stage: to the right wider, upwards brighter (a lower centre)
export function draggedWindow(depth, { centre, width }, right, down) {
  const span = Math.max(depth.high - depth.low, width, 1e-6);
  const least = depth.function === "LINEAR" ? 1 : span / 65536;
  const sign = depth.inverted ? -1 : 1;
  return { centre: centre + sign * down * span, width: Math.max(least, width + right * span) };
}

export const numberText = (value) => String(+value.toPrecision(5));
