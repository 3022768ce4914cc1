// The geometry of the map: planes through the latent space, and back from a place on the map to a whole z.
//
// A point at (u, v) of the plane (a1, a2) through c says nothing of the other dimensions. "data" gives them the mean of
// the examples that lie near there on the map, weighted by a Gaussian; "kept" leaves them; "centre" puts them at c.

const NEAR = 6;

export class Geometry {
  constructor(points) {
    this.points = points;
    this.dims = points.latent_dim;
    this.n = points.mean.length / this.dims;
    this.mean = points.mean;
    this.centre = points.centre;
    this.cache = new Map();
  }

  // "classes", "variance", or the two dimensions "3,7".
  axes(name) {
    const known = this.points[`plane_${name}`];
    if (known) return [known.subarray(0, this.dims), known.subarray(this.dims)];
    const [i, j] = name.split(",").map(Number);
    const pair = [new Float32Array(this.dims), new Float32Array(this.dims)];
    pair[0][i] = 1;
    if (j !== i && j < this.dims) pair[1][j] = 1;
    return pair;
  }

  project(z, axes) {
    let u = 0;
    let v = 0;
    for (let d = 0; d < this.dims; d++) {
      const away = z[d] - this.centre[d];
      u += away * axes[0][d];
      v += away * axes[1][d];
    }
    return [u, v];
  }

  coordinates(name) {
    if (!this.cache.has(name)) {
      const axes = this.axes(name);
      const found = new Float32Array(2 * this.n);
      for (let i = 0; i < this.n; i++) {
        const [u, v] = this.project(this.mean.subarray(i * this.dims, (i + 1) * this.dims), axes);
        found[2 * i] = u;
        found[2 * i + 1] = v;
      }
      if (this.cache.size > 8) this.cache.clear();
      this.cache.set(name, found);
    }
    return this.cache.get(name);
  }

  // The k nearest on the map, nearest first: [index, squared distance].
  onMap(name, u, v, k, allowed = () => true) {
    const at = this.coordinates(name);
    return smallest(this.n, k, (i) => {
      if (!allowed(i)) return Infinity;
      const x = at[2 * i] - u;
      const y = at[2 * i + 1] - v;
      return x * x + y * y;
    });
  }

  lift(name, u, v, depth, current) {
    const axes = this.axes(name);
    const z = new Float32Array(this.dims);
    if (depth === "kept" && current) {
      z.set(current);
    } else if (depth === "data" && this.n > NEAR) {
      const near = this.onMap(name, u, v, NEAR);
      const width = near[near.length - 1][1] / 3 + 1e-9;
      let total = 0;
      for (const [i, distance] of near) {
        const weight = Math.exp(-(distance - near[0][1]) / width);
        total += weight;
        for (let d = 0; d < this.dims; d++) z[d] += weight * this.mean[i * this.dims + d];
      }
      for (let d = 0; d < this.dims; d++) z[d] /= total;
    } else {
      z.set(this.centre);
    }
    const [u0, v0] = this.project(z, axes);
    for (let d = 0; d < this.dims; d++) z[d] += (u - u0) * axes[0][d] + (v - v0) * axes[1][d];
    return z;
  }

  // The k nearest in the whole latent space.
  nearest(z, k) {
    const { mean, dims } = this;
    return smallest(this.n, k, (i) => {
      let sum = 0;
      for (let d = 0, at = i * dims; d < dims; d++, at++) sum += (mean[at] - z[d]) ** 2;
      return sum;
    });
  }

  of(i) {
    return this.mean.slice(i * this.dims, (i + 1) * this.dims);
  }
}

function smallest(n, k, distance) {
  const best = [];
  for (let i = 0; i < n; i++) {
    const d = distance(i);
    if (best.length === k && d >= best[k - 1][1]) continue;
    if (d === Infinity) continue;
    let at = best.length;
    while (at > 0 && best[at - 1][1] > d) at--;
    best.splice(at, 0, [i, d]);
    if (best.length > k) best.pop();
  }
  return best;
}

// White, 2016, https://arxiv.org/abs/1609.04468: along the great arc; straight where the two are parallel.
export function between(z0, z1, t, way) {
  const out = new Float32Array(z0.length);
  let dot = 0;
  let n0 = 0;
  let n1 = 0;
  for (let d = 0; d < z0.length; d++) {
    dot += z0[d] * z1[d];
    n0 += z0[d] ** 2;
    n1 += z1[d] ** 2;
  }
  const angle = Math.acos(Math.max(-1, Math.min(1, dot / (Math.sqrt(n0 * n1) || 1))));
  const sine = Math.sin(angle);
  const straight = way !== "spherical" || sine < 1e-4;
  const w0 = straight ? 1 - t : Math.sin((1 - t) * angle) / sine;
  const w1 = straight ? t : Math.sin(t * angle) / sine;
  for (let d = 0; d < z0.length; d++) out[d] = w0 * z0[d] + w1 * z1[d];
  return out;
}

// Uniform numbers in [0, 1) that follow from a seed (mulberry32).
export function uniforms(seed) {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), s | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Standard normals, by Box and Muller.
export function normals(seed) {
  const unit = uniforms(seed);
  return () => Math.sqrt(-2 * Math.log(1 - unit())) * Math.cos(2 * Math.PI * unit());
}

export function concat(rows) {
  const out = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let at = 0;
  for (const row of rows) {
    out.set(row, at);
    at += row.length;
  }
  return out;
}

// Whether (x, y) lies inside the polygon of [x, y] corners.
export function inside(polygon, x, y) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
  }
  return within;
}
