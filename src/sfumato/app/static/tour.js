// The article as a guided tour on this model: every stop sets the map and shows a strip or a sheet of its own.

import { cell, drawExample, el, pixelsOf, sizeOf } from "./draw.js";
import { concat, normals } from "./latent.js";
import { on, set, state } from "./store.js";

const STRIP = 8;
const WIDTHS = [0, 0.5, 1, 1.5, 2, 2.5, 3];
const CLOUD = 120;

export class Tour {
  constructor(world, panel) {
    this.world = world;
    this.stops = null;
    this.count = el("span", { class: "note" });
    this.title = el("h2", { id: "stop-title" });
    this.quote = el("blockquote");
    this.text = el("p");
    this.here = el("ul", { class: "facts" });
    this.sheet = el("div", { class: "sheet" });
    this.back = el("button", { type: "button", id: "tour-back", textContent: "Back", onclick: () => this.step(-1) });
    this.next = el("button", { type: "button", id: "tour-next", textContent: "Next", onclick: () => this.step(1) });
    panel.append(el("div", { class: "row" }, this.back, this.next, this.count), this.title, this.text, this.sheet,
      el("h3", { textContent: "On this model" }), this.here, el("h3", { textContent: "The article says" }), this.quote,
      el("p", { class: "note", textContent: "In our words. Whether each statement holds, over seeds and with intervals, is what `sfumato claims` measures." }));
    on("tab stop", () => this.show());
  }

  build() {
    this.stops = null;
    this.asked = (this.asked ?? 0) + 1;
    this.done = "";
    this.example = this.world.geometry.nearest(this.world.geometry.centre, 1)[0][0];
    this.show();
  }

  step(by) {
    if (!this.stops) return;
    set({ stop: Math.max(0, Math.min(this.stops.length - 1, state.stop + by)), tab: "tour" });
  }

  leave() {
    this.world.map.clouds = [];
    this.world.map.rings = false;
    this.done = "";
    this.world.map.drawTop();
  }

  async show() {
    if (state.tab !== "tour") {
      if (this.done) this.leave();
      return;
    }
    const { world } = this;
    if (this.example === undefined) return;
    try {
      if (!this.stops) {
        const asked = this.asked;
        this.title.textContent = "Measuring this model…";
        const stops = await world.backend.tour();
        if (asked !== this.asked) return;
        this.stops = stops;
      }
      const number = Math.min(state.stop, this.stops.length - 1);
      const stop = this.stops[number];
      const key = `${number}:${world.model.version}`;
      if (this.done === key) return;
      this.done = key;
      this.count.textContent = `${number + 1} of ${this.stops.length} · ${stop.statements.join(", ")}`;
      this.title.textContent = stop.title;
      this.text.textContent = stop.text;
      this.quote.replaceChildren(...stop.quotes.map((quote) => el("p", { textContent: quote })));
      this.here.replaceChildren(...stop.here.map((fact) => el("li", { textContent: fact })));
      this.back.disabled = number === 0;
      this.next.disabled = number === this.stops.length - 1;
      world.map.clouds = [];
      world.map.rings = false;
      this.sheet.replaceChildren();
      this.sheet.className = "sheet";
      await this[stop.name]?.();
      world.map.draw();
    } catch (error) {
      world.tell(error);
    }
  }

  async fill(zs, columns, labels = null, names = []) {
    const { world } = this;
    const size = sizeOf(world.model);
    const groups = labels && world.model.decoder_sees_class ? [...new Set(labels)] : [state.as];
    const drawn = new Array(zs.length);
    for (const y of groups) {
      const own = zs.map((_, k) => k).filter((k) => groups.length === 1 || labels[k] === y);
      const pixels = pixelsOf(await world.backend.decode(concat(own.map((k) => zs[k])), y), world.model);
      own.forEach((k, at) => { drawn[k] = [pixels, at * size]; });
    }
    this.sheet.style.setProperty("--columns", columns);
    this.sheet.classList.add("fixed");
    this.sheet.replaceChildren(...zs.map((z, k) => {
      const made = cell(names[k] ?? "Go there", () => set({ z: Float32Array.from(z), source: null }));
      drawExample(made.canvas, ...drawn[k], world.model);
      return made;
    }));
  }

  async posterior() {
    await this.world.goToExample(this.example);
    const found = await this.world.backend.example(this.example);
    return { mean: found.mean, sigma: found.sigma ?? new Float32Array(found.mean.length) };
  }

  draws({ mean, sigma }, count, width = 1) {
    const draw = normals(7);
    return Array.from({ length: count }, () => mean.map((m, d) => m + width * sigma[d] * draw()));
  }

  async cloud() {
    const q = await this.posterior();
    this.world.map.clouds = [this.draws(q, CLOUD)];
    await this.fill([q.mean, ...this.draws(q, 2 * STRIP - 1)], STRIP, null, ["the mean"]);
  }

  async noise() {
    const q = await this.posterior();
    this.world.map.clouds = [this.draws(q, CLOUD, 3)];
    const zs = [0, 1, 2].flatMap((row) => WIDTHS.map((width) => {
      const draw = normals(11 + row);
      return q.mean.map((m, d) => m + width * q.sigma[d] * draw());
    }));
    await this.fill(zs, WIDTHS.length, null, zs.map((_, k) => `the cloud times ${WIDTHS[k % WIDTHS.length]}`));
  }

  async aggregate() {
    set({ view: "points", plane: this.world.model.plane_variance ? "variance" : state.plane });
    this.world.map.rings = true;
    const { geometry } = this.world;
    const zs = Array.from({ length: 2 * STRIP }, (_, k) => geometry.of(Math.floor((k * geometry.n) / (2 * STRIP))));
    await this.fill(zs, STRIP);
  }

  async parts() {
    const { model, geometry } = this.world;
    const centre = geometry.of(this.example);
    const [most, least] = [model.order[0], model.order[model.order.length - 1]];
    const zs = [most, least].flatMap((d) => Array.from({ length: STRIP }, (_, k) => {
      const z = Float32Array.from(centre);
      z[d] = geometry.centre[d] + 3 * ((2 * k) / (STRIP - 1) - 1) * Math.max(model.spread[d], 0.3);
      return z;
    }));
    await this.fill(zs, STRIP, null, zs.map((_, k) => `dimension ${k < STRIP ? most : least}`));
  }

  async classes() {
    const { model } = this.world;
    const dims = model.latent_dim;
    const zs = [];
    const labels = [];
    const count = Math.min(model.classes, 10);
    if (!model.class_means) return;
    const draw = normals(3);
    for (let y = 0; y < count; y++) {
      for (let k = 0; k < 6; k++) {
        zs.push(Float32Array.from({ length: dims }, (_, d) => model.class_means[y * dims + d] + (k ? draw() : 0)));
        labels.push(y);
      }
    }
    if (model.plane_classes) set({ plane: "classes" });
    this.world.map.rings = true;
    await this.fill(zs, 6, labels, labels.map((y, k) => (k % 6 ? `a draw of ${model.names[y]}` : `the mean of ${model.names[y]}`)));
  }

  async prior() {
    const { model } = this.world;
    const found = await this.world.backend.sample(3 * STRIP, null, 1, 1);
    const dims = model.latent_dim;
    const zs = Array.from({ length: 3 * STRIP }, (_, k) => found.z.slice(k * dims, (k + 1) * dims));
    this.world.map.clouds = [zs];
    await this.fill(zs, STRIP, [...found.y]);
  }

  async training() {
    await this.world.curves.refresh();
    const charts = this.world.curves.charts.filter(({ key }) => key === "sigma" || key === "kl");
    this.sheet.className = "charts";
    for (const { key } of charts) {
      const canvas = el("canvas", { class: "chart" });
      const last = el("span", { class: "last" });
      const figure = el("figure", {}, el("figcaption", {}, el("b", { textContent: key === "kl" ? "KL" : "Noise σ" }), last), canvas);
      this.sheet.append(figure);
      this.world.curves.drawChart({ key, figure, canvas, last });
    }
  }
}
