// Thumbnails: one picture holds all of them. Grey images on a black ground become ink in the colour of their class.

import { colour, imageData, ink } from "./draw.js";

const DARK = 40;

export function prepare(world, atlas) {
  const [channels] = world.model.shape;
  const n = world.geometry.n;
  const columns = Math.ceil(Math.sqrt(n));
  world.atlas = atlas;
  const side = atlas.width / columns;
  const tall = atlas.height / Math.ceil(n / columns);
  world.thumb = { width: side, height: tall, place: (i) => [(i % columns) * side, Math.floor(i / columns) * tall] };
  world.tints = new Map();
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

// The atlas in the colour of a class, opacity from brightness; null where images keep their own colours.
export function tinted(world, label) {
  if (!inked(world)) return null;
  if (!world.tints.has(label)) {
    const { atlas } = world;
    const canvas = new OffscreenCanvas(atlas.width, atlas.height);
    const context = canvas.getContext("2d");
    context.drawImage(opacity(world), 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour(label);
    context.fillRect(0, 0, atlas.width, atlas.height);
    world.tints.set(label, canvas);
  }
  return world.tints.get(label);
}

function opacity(world) {
  if (!world.opacity || world.opacity.of !== world.atlas) {
    const { atlas } = world;
    const canvas = new OffscreenCanvas(atlas.width, atlas.height);
    const context = canvas.getContext("2d");
    context.drawImage(atlas, 0, 0);
    const image = context.getImageData(0, 0, atlas.width, atlas.height);
    for (let at = 0; at < image.data.length; at += 4) image.data[at + 3] = image.data[at];
    context.putImageData(image, 0, 0);
    canvas.of = atlas;
    world.opacity = canvas;
  }
  return world.opacity;
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

function rgb(hex) {
  const value = Number.parseInt(hex.replace("#", ""), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
