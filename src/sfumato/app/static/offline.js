// The same answers as api.js gives, without a server: from what `sfumato export --to site` put beside the page.

import { unpack } from "./api.js";
import { pixelsOf } from "./draw.js";
import { normals, uniforms } from "./latent.js";
import { expectation, run, softBound } from "./net.js";

const BOUND = 14; // of log variances, as in posteriors/diagonal_gaussian.py

export function offline(site) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const weights = unpack(bytes(site.weights));
  const points = unpack(bytes(site.points));
  const rows = site.rows && unpack(bytes(site.rows)).x;
  const { decoder, likelihood, show, take, posterior, prior } = site.model;
  const dims = points.latent_dim;
  const values = points.shape.reduce((a, b) => a * b, 1);
  const images = points.shape.length === 3;
  const of = (array, i) => array[array.length === 1 ? 0 : i];

  // z to what the page draws: 8-bit values of images, raw values of other data.
  function decodeOne(z, y, out, at) {
    const x = expectation(likelihood, run(decoder, weights, z, y), values);
    for (let i = 0; i < values; i++) {
      const value = of(show.factor, i) * x[i] + of(show.shift, i);
      out[at + i] = images ? Math.max(0, Math.min(255, Math.round(255 * value))) : value;
    }
  }

  async function decode(z, y) {
    const n = z.length / dims;
    const out = images ? new Uint8Array(n * values) : new Float32Array(n * values);
    for (let i = 0; i < n; i++) {
      if (i % 64 === 63) await new Promise((done) => setTimeout(done)); // let the page breathe
      decodeOne(z.subarray(i * dims, (i + 1) * dims), y ?? -1, out, i * values);
    }
    return out.buffer;
  }

  function encode(pixels, y) {
    const taken = (v) => (take.levels ? Math.round((v / 255) * take.levels) / take.over : take.factor * v + take.shift);
    const raw = Float32Array.from(pixels, images ? taken : (v, i) => (v - of(show.shift, i)) / of(show.factor, i));
    const features = posterior.trunk ? run(posterior.trunk, weights, raw, y) : raw;
    const mean = run(posterior.mean, weights, features, y);
    const sigma = run(posterior.log_variance, weights, features, y).map((v) => Math.exp(0.5 * softBound(v, -BOUND, BOUND)));
    return { mean, sigma };
  }

  async function withBack(pixels, y) {
    const { mean, sigma } = encode(pixels, y);
    const again = pixelsOf(await decode(mean, y), points);
    return { pixels, again, mean, sigma, log_likelihood: null, standard_error: null, samples: 0 };
  }

  // A row is whole; of an image a thumbnail is all that is left, and small images are whole.
  async function example(i) {
    const y = points.decoder_sees_class ? points.label[i] : -1;
    if (rows) return withBack(rows.slice(i * values, (i + 1) * values), y);
    const [channels, height, width] = points.shape;
    const atlas = await atlasOf();
    const columns = Math.ceil(Math.sqrt(points.label.length));
    const [side, tall] = [atlas.width / columns, atlas.height / Math.ceil(points.label.length / columns)];
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    context.drawImage(atlas, (i % columns) * side, Math.floor(i / columns) * tall, side, tall, 0, 0, width, height);
    return withBack(planes(context.getImageData(0, 0, width, height).data, channels), y);
  }

  async function image(blob, y) {
    const [channels, height, width] = points.shape;
    let picture;
    try {
      picture = await createImageBitmap(blob);
    } catch {
      throw new Error("expected a picture; this one cannot be read.");
    }
    const scale = Math.max(width / picture.width, height / picture.height);
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    const [w, h] = [picture.width * scale, picture.height * scale];
    context.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
    return withBack(planes(context.getImageData(0, 0, width, height).data, channels), y ?? -1);
  }

  let atlas = null;
  async function atlasOf() {
    if (!atlas) {
      const picture = new Image();
      picture.src = site.atlas;
      await picture.decode();
      atlas = await createImageBitmap(picture);
    }
    return atlas;
  }

  return {
    live: false,
    state: async () => site.state,
    points: async () => points,
    atlas: atlasOf,
    decode,
    example,
    image,
    likely: async () => ({ values: [], ready: true }),
    metrics: async (from) => ({ lines: site.metrics.slice(from), count: site.metrics.length }),
    tour: async () => site.stops,
    sample: async (n, y, temperature, seed) => {
      const [draw, unit] = [normals(seed + 1), uniforms(seed + 77_777)];
      const z = new Float32Array(n * dims);
      const labels = new Int32Array(n).fill(-1);
      for (let i = 0; i < n; i++) {
        if (prior.classes) {
          let [label, left] = [0, unit()];
          while (label < prior.classes - 1 && left > weights.frequencies[label]) left -= weights.frequencies[label++];
          labels[i] = y ?? label;
        }
        for (let d = 0; d < dims; d++) {
          const at = labels[i] * dims + d;
          const centre = prior.classes ? weights.means[at] : 0;
          z[i * dims + d] = centre + temperature * (prior.classes ? weights.deviations[at] : 1) * draw();
        }
      }
      const pixels = images ? new Uint8Array(n * values) : new Float32Array(n * values);
      for (let i = 0; i < n; i++) decodeOne(z.subarray(i * dims, (i + 1) * dims), labels[i], pixels, i * values);
      return { z, y: labels, pixels };
    },
  };
}

// [r, g, b, a, ...] to channels first; grey by the weights that Pillow takes.
function planes(rgba, channels) {
  const n = rgba.length / 4;
  const out = new Uint8Array(channels * n);
  for (let i = 0; i < n; i++) {
    if (channels === 1) out[i] = Math.round((299 * rgba[4 * i] + 587 * rgba[4 * i + 1] + 114 * rgba[4 * i + 2]) / 1000);
    else for (let c = 0; c < channels; c++) out[c * n + i] = rgba[4 * i + c];
  }
  return out;
}
