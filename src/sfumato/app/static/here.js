// The point you are at: decoded at once, the latest wish first; the nearest examples; a slider for each dimension.

import { $, cell, drawExample, el, ink, number, oneAtATime, pixelsOf, sharp } from "./draw.js";
import { on, set, state } from "./store.js";

const SHOWN = 8;
const NEAR = 6;
const BINS = 48;

export class Here {
  constructor(world) {
    this.world = world;
    this.decode = oneAtATime(() => this.decodeOne());
    this.times = [];
    this.sliders = [];
    this.saying = null;
    this.all = false;
    on("z as", () => this.moved());
    on("source", () => this.showOriginal());
    $("random").addEventListener("click", () => this.random());
    $("more").addEventListener("click", () => { this.all = !this.all; this.build(); });
    $("as").addEventListener("change", (event) => set({ as: Number(event.target.value) }));
  }

  // A new set of weights, or the first one.
  build() {
    const { model, geometry } = this.world;
    $("as-label").hidden = !model.decoder_sees_class;
    if (model.decoder_sees_class) {
      $("as").replaceChildren(el("option", { value: -1, textContent: "unknown" }), ...model.names.map((name, i) => el("option", { value: i, textContent: name })));
    }
    const used = [...model.order];
    const active = model.active ?? used.length;
    const shown = used.slice(0, this.all ? Math.min(used.length, 256) : SHOWN);
    this.sliders = shown.map((d) => this.slider(d));
    $("sliders").replaceChildren(...this.sliders.map((s) => s.row));
    const more = $("more");
    more.hidden = used.length <= SHOWN;
    more.textContent = this.all ? `Only the first ${SHOWN}` : `All ${used.length} (${active} active)`;
    this.near = Array.from({ length: NEAR }, (_, k) => {
      const made = cell("Go to this example", () => this.world.goToExample(this.near[k].index));
      made.hidden = geometry.n <= k;
      return made;
    });
    $("near").replaceChildren(...this.near);
    $("near-title").textContent = model.of === "training examples" ? "Nearest training examples" : "Nearest samples";
    this.moved();
    this.say();
    this.showOriginal();
    requestAnimationFrame(() => this.sliders.forEach((s) => s.draw()));
  }

  slider(d) {
    const { model, geometry } = this.world;
    const values = Float32Array.from({ length: geometry.n }, (_, i) => geometry.mean[i * geometry.dims + d]);
    let low = Math.min(-3, geometry.centre[d] - 3);
    let high = Math.max(3, geometry.centre[d] + 3);
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const bins = new Float32Array(BINS);
    for (const value of values) bins[Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS))]++;
    const input = el("input", {
      type: "range", min: low.toFixed(2), max: high.toFixed(2), step: 0.01, "aria-label": `dimension ${d}`,
      oninput: () => {
        const z = Float32Array.from(state.z);
        z[d] = Number(input.value);
        set({ z, source: null });
      },
      ondblclick: () => {
        const z = Float32Array.from(state.z);
        z[d] = geometry.centre[d];
        set({ z, source: null });
      },
    });
    const shown = el("output");
    const canvas = el("canvas", { "aria-hidden": "true" });
    const kl = model.kl ? number(model.kl[d], 2) : "";
    const row = el("div", { class: "slider" },
      el("span", { class: "name" }, "z", el("sub", { textContent: d })),
      el("span", { class: "kl", textContent: kl, title: model.kl ? `KL ${kl} nats` : "" }),
      el("div", { class: "track" }, canvas, input), shown);
    const draw = () => {
      const { context, width, height } = sharp(canvas, 20);
      const top = Math.max(...bins);
      context.fillStyle = ink("--smoke");
      context.beginPath();
      context.moveTo(0, height);
      bins.forEach((count, k) => context.lineTo(((k + 0.5) / BINS) * width, height - (count / top) * (height - 2)));
      context.lineTo(width, height);
      context.fill();
    };
    return { d, row, input, shown, draw };
  }

  // The image follows at once; what is said about the place follows 25 times a second, for drawing it takes time as well.
  moved() {
    if (!state.z || !this.world.model) return;
    this.decode();
    this.saying ??= setTimeout(() => this.say(), 40);
  }

  async decodeOne() {
    try {
      const began = performance.now();
      const pixels = pixelsOf(await this.world.backend.decode(Float32Array.from(state.z), state.as), this.world.model);
      drawExample($("decoded"), pixels, 0, this.world.model);
      this.times.push(performance.now() - began);
      if (this.times.length > 400) this.times.shift();
      this.world.tell(null);
    } catch (error) {
      this.world.tell(error);
    }
  }

  say() {
    this.saying = null;
    if (!state.z) return;
    $("as").value = state.as;
    for (const { d, input, shown } of this.sliders) {
      if (document.activeElement !== input || Math.abs(Number(input.value) - state.z[d]) > 0.011) input.value = state.z[d];
      shown.textContent = number(state.z[d], 2);
    }
    $("where").textContent = `decoded · |z| = ${number(Math.hypot(...state.z), 1)}`;
    const last = this.times.slice(1).slice(-50).sort((a, b) => a - b); // the first waits for the page itself
    if (last.length) $("latency").textContent = `${number(last[Math.floor(last.length / 2)], 1)} ms`;
    this.showNear();
  }

  showNear() {
    const { world } = this;
    if (!state.z || !this.near) return;
    world.geometry.nearest(state.z, NEAR).forEach(([i], k) => {
      const made = this.near[k];
      if (made.index === i && made.of === world.atlas) return;
      Object.assign(made, { index: i, of: world.atlas, title: world.nameOf(i) });
      made.setAttribute("aria-label", `Go to ${world.nameOf(i)}`);
      world.thumbnail(made.canvas, i);
    });
  }

  showOriginal() {
    const source = state.source;
    const figure = $("original-figure");
    figure.hidden = !source;
    if (!source) return;
    $("original-name").textContent = source.name;
    drawExample($("original"), source.pixels, 0, this.world.model);
  }

  async random() {
    try {
      const found = await this.world.backend.sample(1, state.class < 0 ? null : state.class, state.temperature, Math.floor(Math.random() * 1e9));
      set({ z: Float32Array.from(found.z), source: null });
    } catch (error) {
      this.world.tell(error);
    }
  }
}
