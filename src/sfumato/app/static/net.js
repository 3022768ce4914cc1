// The networks of a model, run in the browser for the site that needs no server: layer by layer, one example at a time.

const ACT = {
  none: (v) => v,
  relu: (v) => (v > 0 ? v : 0),
  silu: (v) => v / (1 + Math.exp(-v)),
  gelu: (v) => 0.5 * v * (1 + erf(v / Math.SQRT2)),
  tanh: Math.tanh,
  elu: (v) => (v > 0 ? v : Math.expm1(v)),
};

// Abramowitz and Stegun, 1964, 7.1.26: within 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
  return x < 0 ? -y : y;
}

function linear(x, weight, bias) {
  const out = new Float32Array(bias.length);
  const n = x.length;
  for (let i = 0, at = 0; i < out.length; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += weight[at++] * x[j];
    out[i] = sum + bias[i];
  }
  return out;
}

function activate(x, name) {
  if (name === "glu") {
    const half = x.length / 2;
    return Float32Array.from({ length: half }, (_, i) => x[i] / (1 + Math.exp(-x[half + i])));
  }
  const f = ACT[name];
  return name === "none" ? x : x.map(f);
}

// A 3x3 convolution with a border of one zero. x: {data, c, h, w}.
function conv(x, weight, bias, stride) {
  const [h, w] = [Math.floor((x.h - 1) / stride) + 1, Math.floor((x.w - 1) / stride) + 1];
  const c = bias.length;
  const data = new Float32Array(c * h * w);
  for (let o = 0; o < c; o++) {
    const plane = data.subarray(o * h * w, (o + 1) * h * w).fill(bias[o]);
    for (let i = 0; i < x.c; i++) {
      const source = x.data.subarray(i * x.h * x.w, (i + 1) * x.h * x.w);
      for (let ky = 0; ky < 3; ky++) {
        for (let kx = 0; kx < 3; kx++) {
          const k = weight[((o * x.c + i) * 3 + ky) * 3 + kx];
          if (k === 0) continue;
          for (let y = 0; y < h; y++) {
            const sy = y * stride + ky - 1;
            if (sy < 0 || sy >= x.h) continue;
            const first = kx === 0 ? Math.ceil(1 / stride) : 0;
            for (let px = first, sx = first * stride + kx - 1; px < w && sx < x.w; px++, sx += stride) {
              plane[y * w + px] += k * source[sy * x.w + sx];
            }
          }
        }
      }
    }
  }
  return { data, c, h, w };
}

function silu(x) {
  return { ...x, data: x.data.map(ACT.silu) };
}

function residual(x, arrays, name) {
  const inner = conv(silu(conv(silu(x), arrays[`${name}.first.weight`], arrays[`${name}.first.bias`], 1)), arrays[`${name}.second.weight`], arrays[`${name}.second.bias`], 1);
  return { ...x, data: x.data.map((v, i) => v + inner.data[i]) };
}

// torch's nearest: the source row of y is floor(y * from / to).
function resize(x, h, w) {
  const data = new Float32Array(x.c * h * w);
  for (let c = 0, at = 0; c < x.c; c++) {
    for (let y = 0; y < h; y++) {
      const row = (c * x.h + Math.floor((y * x.h) / h)) * x.w;
      for (let px = 0; px < w; px++) data[at++] = x.data[row + Math.floor((px * x.w) / w)];
    }
  }
  return { data, c: x.c, h, w };
}

// program: what site.py wrote of the network; arrays: its weights; x: a row of numbers; y: a class number or -1.
export function run(program, arrays, x, y) {
  const { op, name } = program;
  if (op === "label") {
    const planes = program.planes;
    const wide = new Float32Array(x.length + program.classes * planes);
    wide.set(x);
    if (y >= 0) wide.fill(1, x.length + y * planes, x.length + (y + 1) * planes);
    return run(program.network, arrays, wide, -1);
  }
  if (op === "mlp") {
    return program.layers.reduce((h, { at, act }) => activate(linear(h, arrays[`${name}.${at}.weight`], arrays[`${name}.${at}.bias`]), act), x);
  }
  if (op === "encoder") {
    const [c, h, w] = program.start;
    let image = { data: x, c, h, w };
    for (const { at, kind } of program.layers) {
      const layer = `${name}.layers.${at}`;
      image = kind === "conv" ? conv(image, arrays[`${layer}.weight`], arrays[`${layer}.bias`], 2) : residual(image, arrays, layer);
    }
    return linear(silu(image).data, arrays[`${name}.head.weight`], arrays[`${name}.head.bias`]);
  }
  const [c, h, w] = program.start;
  let image = { data: linear(x, arrays[`${name}.stem.weight`], arrays[`${name}.stem.bias`]), c, h, w };
  program.sizes.forEach(([tall, wide], number) => {
    const stage = `${name}.stages.${number}`;
    for (let block = 0; block < program.blocks; block++) image = residual(image, arrays, `${stage}.${block}`);
    const last = `${stage}.${program.blocks + 1}`;
    image = resize(conv(silu(image), arrays[`${last}.weight`], arrays[`${last}.bias`], 1), tall, wide);
  });
  return conv(silu(image), arrays[`${name}.head.weight`], arrays[`${name}.head.bias`], 1).data;
}

// The expected data of p(x | z) for the decoder's numbers: (numbers per value, values).
export function expectation(kind, numbers, values) {
  const out = new Float32Array(values);
  for (let i = 0; i < values; i++) {
    if (kind === "sigmoid") out[i] = 1 / (1 + Math.exp(-numbers[i]));
    else if (kind === "shifted") out[i] = Math.max(0, Math.min(1, numbers[i] + 0.5));
    else if (kind === "levels") out[i] = meanLevel(numbers, i, values);
    else out[i] = numbers[i];
  }
  return out;
}

function meanLevel(numbers, i, values) {
  let high = -Infinity;
  for (let at = i; at < numbers.length; at += values) high = Math.max(high, numbers[at]);
  let [sum, total] = [0, 0];
  for (let at = i, level = 0; at < numbers.length; at += values, level++) {
    const weight = Math.exp(numbers[at] - high);
    sum += level * weight;
    total += weight;
  }
  return sum / total;
}

export function softBound(v, low, high) {
  const softplus = (u) => (u > 30 ? u : Math.log1p(Math.exp(u)));
  const upper = high - softplus(high - v);
  return low + softplus(upper - low);
}
