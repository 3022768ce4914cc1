// Thumbnails: one picture holds all of them. Grey images on a black ground become ink in the colour of their class.

import { colour, imageData, ink, rgb } from "./draw.js";

const DARK = 40;
const CELL = 27;

export function prepare(world, atlas) {
  const [channels] = world.model.shape;
  const n = world.geometry.n;
  const columns = Math.ceil(Math.sqrt(n));
  world.atlas = atlas;
  const side = atlas.width / columns;
  const tall = atlas.height / Math.ceil(n / columns);
  world.thumb = { width: side, height: tall, place: (i) => [(i % columns) * side, Math.floor(i / columns) * tall] };
  world.opacity = null;
  world.dark = channels === 1 ? null : false;
  world.isDark = () => darkGround(atlas, side, tall, columns, n);
}

// Whether images are shown as ink; looked at when it is first asked for.
export function inked(world) {
  if (!world.atlas) return false;
  world.dark ??= world.isDark();
  return world.dark;
}

// Whether the borders of the images are black: then they are figures on a ground that may be left out.
function darkGround(atlas, side, tall, columns, n) {
  const canvas = new OffscreenCanvas(side, tall);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let sum = 0;
  let count = 0;
  for (let k = 0; k < Math.min(60, n); k++) {
    const i = Math.floor((k * n) / Math.min(60, n));
    context.drawImage(atlas, (i % columns) * side, Math.floor(i / columns) * tall, side, tall, 0, 0, side, tall);
    const { data } = context.getImageData(0, 0, side, tall);
    for (let x = 0; x < side; x++) {
      sum += data[4 * x] + data[4 * ((tall - 1) * side + x)];
      count += 2;
    }
  }
  return sum / count < DARK;
}

// The atlas as ink: its brightness is its opacity.
function opacity(world) {
  if (!world.opacity) {
    const { atlas } = world;
    const canvas = new OffscreenCanvas(atlas.width, atlas.height);
    const context = canvas.getContext("2d");
    context.drawImage(atlas, 0, 0);
    const image = context.getImageData(0, 0, atlas.width, atlas.height);
    for (let at = 0; at < image.data.length; at += 4) image.data[at + 3] = image.data[at];
    context.putImageData(image, 0, 0);
    world.opacity = canvas;
  }
  return world.opacity;
}

// Thumbnails that do not cover each other, a class at a time: ink in its colour, or as they are in a frame of it.
export function paintImages(map, context, width, height, alpha, wanted) {
  const { world } = map;
  const { label } = world.model;
  const { thumb } = world;
  const cell = Math.max(CELL, Math.min(72, 0.3 * map.view.scale));
  const [w, h] = [thumb.width, thumb.height].map((side) => ((cell - 2) * side) / Math.max(thumb.width, thumb.height));
  const taken = new Set();
  const found = new Map();
  map.visible(width, height, cell, wanted, (i, x, y) => {
    const key = Math.floor(x / cell) + 10_000 * Math.floor(y / cell);
    if (taken.has(key)) return;
    taken.add(key);
    if (!found.has(label[i])) found.set(label[i], []);
    found.get(label[i]).push([i, x - w / 2, y - h / 2]);
  }, world.shuffled);
  const source = inked(world) ? opacity(world) : world.atlas;
  context.globalAlpha = alpha;
  for (const [y, places] of found) {
    const on = inked(world) ? map.clearLayer(width, height) : context;
    on.strokeStyle = on.fillStyle = colour(y);
    on.lineWidth = 1.5;
    for (const [i, left, top] of places) {
      on.drawImage(source, ...thumb.place(i), thumb.width, thumb.height, left, top, w, h);
      if (on === context) on.strokeRect(left, top, w, h);
    }
    if (on === context) continue;
    on.globalCompositeOperation = "source-in";
    on.fillRect(0, 0, width, height);
    context.drawImage(map.layer, 0, 0, width, height);
  }
}

// One decoded image as the map shows it: ink on nothing, or as it is.
export function asInk(pixels, start, model, withInk) {
  const [channels, height, width] = model.shape;
  const image = imageData(pixels, start, channels, height, width);
  if (withInk) {
    const [r, g, b] = rgb(ink("--ink"));
    for (let at = 0; at < image.data.length; at += 4) {
      image.data[at + 3] = image.data[at];
      image.data[at] = r;
      image.data[at + 1] = g;
      image.data[at + 2] = b;
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
