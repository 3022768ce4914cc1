// The points as soft discs, straight into the pixels: smoke, not a hard line. Drawn one by one as pictures, very many
// points take many times as long.

import { colour, rgb } from "./draw.js";

const MARGIN = 12; // css pixels beyond the edge, where a disc still shows

// Of a disc in device pixels: its side, and its opacity, 0 to 255, row by row.
function smoke(radius) {
  const half = Math.max(1.5, 1.9 * radius);
  const side = 2 * Math.ceil(half) + 1;
  const alpha = Uint8Array.from({ length: side * side }, (_, k) => {
    const t = Math.hypot((k % side) - (side - 1) / 2, Math.floor(k / side) - (side - 1) / 2) / half;
    if (t >= 1) return 0;
    return 255 * (t < 0.42 ? 1 : t < 0.6 ? 1 - (t - 0.42) / 0.27 : (1 - t) / 1.2);
  });
  return { side, alpha };
}

// One disc over what is there.
function stamp({ data, width, height }, { side, alpha }, left, top, [red, green, blue]) {
  const [first, last] = [Math.max(0, -left), Math.min(side, width - left)];
  for (let row = Math.max(0, -top); row < side && top + row < height; row++) {
    let to = 4 * ((top + row) * width + left + first);
    for (let k = row * side + first; k < row * side + last; k++, to += 4) {
      const above = alpha[k];
      if (!above) continue;
      const below = data[to + 3];
      const both = above + below - (above * below) / 255;
      const share = above / both;
      data[to] += (red - data[to]) * share;
      data[to + 1] += (green - data[to + 1]) * share;
      data[to + 2] += (blue - data[to + 2]) * share;
      data[to + 3] = both;
    }
  }
}

export function paintPoints(map, context, width, height, alpha, wanted) {
  const { label } = map.world.model;
  const layer = map.clearLayer(width, height);
  const image = new ImageData(layer.canvas.width, layer.canvas.height);
  const ratio = image.width / width;
  const disc = smoke(ratio * Math.max(1.2, Math.min(6, 1 + 70 / Math.sqrt(label.length) + 0.008 * map.view.scale)));
  const half = (disc.side - 1) / 2;
  const inks = new Map();
  map.visible(width, height, MARGIN, wanted, (i, x, y) => {
    if (!inks.has(label[i])) inks.set(label[i], rgb(colour(label[i])));
    stamp(image, disc, Math.round(x * ratio) - half, Math.round(y * ratio) - half, inks.get(label[i]));
  });
  layer.putImageData(image, 0, 0);
  context.globalAlpha = alpha;
  context.drawImage(layer.canvas, 0, 0, width, height);
}
