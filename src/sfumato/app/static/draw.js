// Small things that are drawn everywhere: examples, colours, elements. Names from data become text, never markup.

// Colours of classes, the report's: the model's answer brings them.
const UNKNOWN = "#9a9a9a";
let colours = [UNKNOWN];
export const takeColours = (found) => { colours = found; };
export const colour = (label) => (label < 0 ? UNKNOWN : colours[label % colours.length]);

export function rgb(hex) {
  const value = Number.parseInt(hex.replace("#", ""), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export const $ = (id) => document.getElementById(id);

// Colours of the theme, looked up once: asking for a computed style in the middle of drawing costs milliseconds.
const inks = new Map();
export const ink = (name) => {
  if (!inks.has(name)) inks.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return inks.get(name);
};
export const forgetInks = () => inks.clear();

const formats = new Map();
export const number = (value, digits = 2) => {
  if (!formats.has(digits)) formats.set(digits, new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return formats.get(digits).format(value);
};

// One example into a canvas of its own size; the page scales it. shape: [channels, height, width], or [values].
export function drawExample(canvas, pixels, start, model) {
  if (model.shape.length !== 3) {
    drawRow(canvas, pixels, start, model);
    return;
  }
  const [channels, height, width] = model.shape;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  canvas.getContext("2d").putImageData(imageData(pixels, start, channels, height, width), 0, 0);
}

export function imageData(pixels, start, channels, height, width) {
  const size = height * width;
  const rgba = new Uint8ClampedArray(4 * size);
  const green = channels >= 3 ? size : 0;
  const blue = channels >= 3 ? 2 * size : 0;
  for (let i = 0, to = 0; i < size; i++, to += 4) {
    const from = start + i;
    rgba[to] = pixels[from];
    rgba[to + 1] = pixels[from + green];
    rgba[to + 2] = pixels[from + blue];
    rgba[to + 3] = channels === 4 ? pixels[from + 3 * size] : 255;
  }
  return new ImageData(rgba, width, height);
}

function drawRow(canvas, values, start, model) {
  const size = model.shape.reduce((a, b) => a * b, 1);
  const [paper, accent, muted] = [ink("--raised"), ink("--accent"), ink("--muted")];
  const [width, height] = [320, Math.max(120, Math.min(320, 18 * Math.min(size, 16)))];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = paper;
  context.fillRect(0, 0, width, height);
  const shown = Math.min(size, 16);
  let high = 1e-9;
  for (let i = 0; i < shown; i++) high = Math.max(high, Math.abs(values[start + i]));
  const row = height / shown;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (let i = 0; i < shown; i++) {
    const value = values[start + i];
    context.fillStyle = accent;
    const bar = (value / high) * (width / 4);
    context.fillRect(0.62 * width + Math.min(0, bar), i * row + 2, Math.abs(bar), row - 4);
    context.fillStyle = muted;
    context.fillText(`${model.columns[i] ?? i}  ${Number(value).toPrecision(3)}`, 6, (i + 0.5) * row, 0.55 * width);
  }
}

// act, one call at a time: a wish that comes meanwhile is a call more when that has ended, however many there are.
export function oneAtATime(act) {
  let again = false;
  const run = async () => {
    again = run.busy;
    if (run.busy) return;
    run.busy = true;
    try {
      do {
        again = false;
        await act();
      } while (again);
    } finally {
      run.busy = false;
    }
  };
  run.busy = false;
  return run;
}

export const sizeOf = (model) => model.shape.reduce((a, b) => a * b, 1);
export const pixelsOf = (buffer, model) => (model.shape.length === 3 ? new Uint8Array(buffer) : new Float32Array(buffer));

// A button with an example in it.
export function cell(label, act) {
  const canvas = el("canvas");
  const button = el("button", { type: "button", class: "cell", title: label, "aria-label": label, onclick: act }, canvas);
  button.canvas = canvas;
  return button;
}

// A canvas as sharp as the screen; returns the context in css pixels, and its size.
export function sharp(canvas, height) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const width = Math.max(40, canvas.clientWidth || canvas.parentElement?.clientWidth || 300);
  const tall = height ?? canvas.clientHeight;
  if (height && canvas.classList.contains("chart")) canvas.style.height = `${height}px`;
  const [w, h] = [Math.round(width * ratio), Math.round(tall * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, tall);
  return { context, width, height: tall };
}

export function ticks(low, high, count) {
  const span = high - low || 1;
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * span; t += step) found.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return found;
}

export const short = (value) => {
  const size = Math.abs(value);
  if (size >= 10000) return `${Number((value / 1000).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
};
