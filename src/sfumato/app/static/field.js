// The field: what the decoder makes of every place on the map, a lattice of images behind the points.

import { pixelsOf, sizeOf } from "./draw.js";
import { concat } from "./latent.js";
import { state } from "./store.js";
import { asInk, inked } from "./thumbs.js";

const SIDE = 44;
const MOST = 300;
const NUMBERS = 4e6; // of the pixels in one answer

let held = null;
let timer = 0;

// The field for this view of the map, or null while it is on its way; then the map is drawn again.
export function fieldOf(map, width, height) {
  if (map.world.model.shape.length !== 3) return null;
  const { view } = map;
  const kept = state.depth === "kept" ? map.world.geometry.lift(map.plane, 0, 0, "kept", state.z).map((v) => Math.round(100 * v)) : "";
  const key = [kept, view.x, view.y, view.scale, width, height, map.plane, state.depth, state.as, map.world.model.version, map.world.theme, inked(map.world)].join();
  if (held?.key === key) return held;
  clearTimeout(timer);
  timer = setTimeout(() => ask(map, key, width, height), held ? 120 : 0);
  return held && held.plane === map.plane ? moved(map) : null;
}

// The field there is, where its images now belong.
function moved(map) {
  const cells = held.cells.map(({ canvas, at }) => {
    const [x, y] = map.toScreen(...at);
    return { canvas, x, y };
  });
  return { cells, side: held.side * (map.view.scale / held.scale) };
}

async function ask(map, key, width, height) {
  const { world } = map;
  const most = Math.max(16, Math.min(MOST, NUMBERS / sizeOf(world.model)));
  let side = SIDE;
  while ((width / side) * (height / side) > most) side *= 1.1;
  const places = [];
  for (let y = side / 2; y < height; y += side) for (let x = side / 2; x < width; x += side) places.push([x, y]);
  const zs = places.map(([x, y]) => world.geometry.lift(map.plane, ...map.toPlane(x, y), state.depth, state.z));
  const plane = map.plane;
  try {
    const pixels = pixelsOf(await world.backend.decode(concat(zs), state.as), world.model);
    const size = sizeOf(world.model);
    const cells = places.map(([x, y], k) => ({
      canvas: asInk(pixels, k * size, world.model, inked(world)), x, y, at: map.toPlane(x, y),
    }));
    held = { key, plane, cells, side, scale: map.view.scale };
    map.draw();
  } catch (error) {
    world.tell(error);
  }
}
