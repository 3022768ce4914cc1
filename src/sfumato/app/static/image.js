// Your image: what comes back, its posterior with error bars, how likely it is among the training data, its neighbours.

import { $, cell, drawExample, el, ink, number, sharp, ticks } from "./draw.js";
import { on, set, state } from "./store.js";

const DIMS = 24;
const NEAR = 8;
const BINS = 30;

export class Picture {
  constructor(world, panel) {
    this.world = world;
    this.file = el("input", { type: "file", accept: "image/*", id: "file", class: "hidden", "aria-label": "Choose a picture", onchange: () => this.file.files[0] && this.take(this.file.files[0]) });
    this.drop = el("label", { class: "drop", htmlFor: "file" }, el("span", { textContent: "Drop, paste or choose a picture" }));
    this.original = el("canvas");
    this.again = el("canvas");
    this.score = el("p", { class: "score", id: "score" });
    this.bars = el("canvas", { class: "chart", role: "img", "aria-label": "Posterior mean and standard deviation of each dimension" });
    this.chart = el("canvas", { class: "chart", role: "img", "aria-label": "Log-likelihood among the training data" });
    this.near = el("div", { class: "strip" });
    this.result = el("div", { hidden: true },
      el("div", { class: "pictures" },
        el("figure", {}, this.original, el("figcaption", { textContent: "as the model sees it" })),
        el("figure", {}, this.again, el("figcaption", { textContent: "what comes back" }))),
      el("div", { class: "row" },
        el("button", { type: "button", textContent: "Go there", id: "go-there", onclick: () => this.go() }),
        el("button", { type: "button", textContent: "Set A", onclick: () => set({ a: this.found.mean.slice(), tab: "path" }) }),
        el("button", { type: "button", textContent: "Set B", onclick: () => set({ b: this.found.mean.slice(), tab: "path" }) })),
      el("h2", { textContent: "How likely it is" }), this.score, this.chart,
      el("h2", {}, "Its cloud ", el("small", { textContent: "mean ± standard deviation; grey: the training means" })), this.bars,
      el("h2", { textContent: "Nearest in latent space" }), this.near);
    panel.append(this.file, this.drop, this.result);
    this.cells = Array.from({ length: NEAR }, (_, k) => cell("Go to this example", () => world.goToExample(this.cells[k].index)));
    this.near.append(...this.cells);
    on("tab theme", () => this.show());
    this.listen();
  }

  listen() {
    const room = $("room");
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      room.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || room.classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      room.classList.remove("dropping");
      if (event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith("image/"));
      if (file) this.take(file);
    });
  }

  // again: the same picture, for new weights; then nothing moves.
  async take(blob, again = false) {
    if (!again) set({ tab: "image" });
    try {
      this.found = await this.world.backend.image(blob, state.as);
      this.blob = blob;
      this.world.tell(null);
      if (!again) this.go();
      this.show();
      this.likely();
    } catch (error) {
      this.world.tell(error);
    }
  }

  go() {
    set({ z: Float32Array.from(this.found.mean), source: { pixels: this.found.pixels, name: "your image" } });
  }

  build() {
    this.values = [];
    this.ready = false;
    this.drop.hidden = this.file.hidden = this.world.model.shape.length !== 3;
    if (this.blob) this.take(this.blob, true);
  }

  show() {
    if (state.tab !== "image" || !this.found) return;
    const { world, found } = this;
    this.result.hidden = false;
    drawExample(this.original, found.pixels, 0, world.model);
    drawExample(this.again, found.again, 0, world.model);
    world.geometry.nearest(found.mean, NEAR).forEach(([i], k) => {
      this.cells[k].index = i;
      this.cells[k].title = world.nameOf(i);
      world.thumbnail(this.cells[k].canvas, i);
    });
    this.drawBars();
    this.drawLikely();
  }

  async likely() {
    if (this.asking || this.ready || !this.world.backend.live) return;
    this.asking = true;
    try {
      while (!this.ready) {
        const { values, ready } = await this.world.backend.likely();
        this.values = values;
        this.ready = ready;
        this.drawLikely();
        if (!ready) await new Promise((done) => setTimeout(done, 700));
      }
    } catch (error) {
      this.world.tell(error);
    } finally {
      this.asking = false;
    }
  }

  drawLikely() {
    if (!this.found || state.tab !== "image") return;
    const { log_likelihood: own, standard_error: error, samples } = this.found;
    if (own === null) {
      this.score.textContent = this.world.model.evidence ? "It has no finite log-likelihood." : "This posterior has no density, so there is no log p(x).";
      return;
    }
    const below = this.values.filter((value) => value < own).length;
    const share = this.values.length ? `; above ${number((100 * below) / this.values.length, 0)} % of ${this.values.length} training examples` : "";
    this.score.textContent = `log p(x) = ${number(own, 1)} ± ${number(error ?? 0, 1)} nats (bound of ${samples} draws)${share}.`;
    const { context, width, height } = sharp(this.chart, 110);
    const sorted = [...this.values].sort((a, b) => a - b);
    if (!sorted.length) {
      context.fillStyle = ink("--muted");
      context.fillText("scoring training examples…", 6, 20);
      return;
    }
    let [low, high] = [sorted[Math.floor(0.005 * sorted.length)], sorted[sorted.length - 1]];
    const span = high - low || 1;
    const far = own < low - 1.5 * span;
    [low, high] = [Math.min(low, far ? low - 0.25 * span : own) - 0.03 * span, Math.max(high, own) + 0.03 * span];
    const x = (value) => ((value - low) / (high - low)) * width;
    const bins = new Float32Array(BINS);
    for (const value of sorted) bins[Math.max(0, Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS)))]++;
    const top = Math.max(...bins);
    context.fillStyle = ink("--smoke");
    bins.forEach((count, k) => context.fillRect((k * width) / BINS + 0.5, height - 20 - (count / top) * (height - 34), width / BINS - 1, (count / top) * (height - 34)));
    context.fillStyle = ink("--muted");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    for (const t of ticks(low, high, width / 90)) if (x(t) > 24 && x(t) < width - 24) context.fillText(number(t, 0), x(t), height - 5);
    const at = far ? 6 : x(own);
    context.strokeStyle = context.fillStyle = ink("--accent");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(at, 8);
    context.lineTo(at, height - 20);
    context.stroke();
    context.textAlign = at < width / 2 ? "left" : "right";
    context.fillText(far ? "← yours, far out" : "yours", at + (at < width / 2 ? 5 : -5), 14);
  }

  drawBars() {
    const { model, geometry } = this.world;
    const { mean, sigma } = this.found;
    const order = [...model.order].slice(0, DIMS);
    const { context, width, height } = sharp(this.bars, 150);
    let reach = 3;
    for (const d of order) reach = Math.max(reach, Math.abs(mean[d]) + (sigma ? sigma[d] : 0));
    const y = (value) => (height - 16) / 2 - (value / reach) * ((height - 24) / 2);
    const step = (width - 24) / order.length;
    context.font = "10px system-ui, sans-serif";
    context.textAlign = "center";
    context.strokeStyle = ink("--line");
    context.beginPath();
    context.moveTo(22, y(0));
    context.lineTo(width, y(0));
    context.stroke();
    context.fillStyle = ink("--muted");
    for (const t of ticks(-reach, reach, 3)) context.fillText(t, 10, y(t) + 3);
    order.forEach((d, k) => {
      const x = 24 + (k + 0.5) * step;
      const [centre, spread] = [geometry.centre[d], model.spread[d]];
      context.fillStyle = ink("--smoke");
      context.fillRect(x - 0.32 * step, y(centre + spread), 0.64 * step, y(centre - spread) - y(centre + spread));
      context.strokeStyle = context.fillStyle = ink("--accent");
      context.lineWidth = 1.5;
      if (sigma) {
        const [up, down] = [y(mean[d] + sigma[d]), y(mean[d] - sigma[d])];
        context.beginPath();
        context.moveTo(x, up);
        context.lineTo(x, down);
        context.moveTo(x - 3, up);
        context.lineTo(x + 3, up);
        context.moveTo(x - 3, down);
        context.lineTo(x + 3, down);
        context.stroke();
      }
      context.beginPath();
      context.arc(x, y(mean[d]), 2.6, 0, 7);
      context.fill();
      context.fillStyle = ink("--muted");
      if (step > 18 || k % 2 === 0) context.fillText(d, x, height - 3);
    });
  }
}
