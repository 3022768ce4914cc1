// The state of the page: one object, whoever cares is told, and the address holds what is needed to come back.

const SCALE = 1000;
const CODED = ["plane", "view", "depth", "tab", "as", "class", "temperature", "seed", "way", "stop", "across", "up", "zoom"];
const DEFAULTS = {
  plane: "", view: "points", depth: "data", tab: "sample", as: -1, class: -1, temperature: 1, seed: 0,
  way: "spherical", stop: 0, across: -1, up: -1, zoom: "",
};

export const state = { ...DEFAULTS, z: null, a: null, b: null, source: null, selection: null, hidden: new Set(), lit: null };
const listeners = [];

export function on(keys, act) {
  listeners.push([new Set(keys.split(" ")), act]);
}

export function set(patch) {
  const changed = Object.keys(patch).filter((key) => state[key] !== patch[key]);
  Object.assign(state, patch);
  for (const [keys, act] of listeners) if (changed.some((key) => keys.has(key))) act(patch);
  if (changed.length) later();
}

const encodeZ = (z) => {
  const bytes = new Uint8Array(Int16Array.from(z, (v) => Math.max(-32767, Math.min(32767, Math.round(v * SCALE)))).buffer);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
};

const decodeZ = (text, dims) => {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    if (bytes.length !== 2 * dims) return null;
    return Float32Array.from(new Int16Array(bytes.buffer), (v) => v / SCALE);
  } catch {
    return null;
  }
};

let timer = 0;
let written = "";
let writing = false;

// From now on the address follows the state; before, it still has to be read.
export function followState() {
  writing = true;
}

function later() {
  if (!writing) return;
  clearTimeout(timer);
  timer = setTimeout(writeAddress, 150);
}

export function writeAddress() {
  const query = new URLSearchParams();
  for (const key of CODED) if (state[key] !== DEFAULTS[key]) query.set(key, state[key]);
  for (const key of ["z", "a", "b"]) if (state[key] && state[key].length <= 512) query.set(key, encodeZ(state[key]));
  written = `#${query}`;
  history.replaceState(null, "", location.pathname + location.search + written);
}

// What the address says, checked: a name that is not known, or a z of another model, is left out.
export function readAddress(dims, allowed) {
  if (location.hash === written && written) return {};
  const query = new URLSearchParams(location.hash.slice(1));
  const found = {};
  for (const key of CODED) {
    if (!query.has(key)) {
      found[key] = DEFAULTS[key];
      continue;
    }
    const text = query.get(key);
    const value = typeof DEFAULTS[key] === "number" ? Number(text) : text;
    if (typeof value === "number" ? Number.isFinite(value) && value >= -1 && value <= 1e9 : text.length < 60) {
      found[key] = allowed[key] && !allowed[key].includes(value) ? DEFAULTS[key] : value;
    }
  }
  for (const key of ["z", "a", "b"]) if (query.has(key)) found[key] = decodeZ(query.get(key), dims);
  return found;
}
