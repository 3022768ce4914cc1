// The training, live: one small chart for each quantity, train in grey and validation in blue.

import { el, ink, sharp, short, ticks } from "./draw.js";
import { on, state } from "./store.js";

const CHARTS = [
  ["elbo", "ELBO", "nats, to be raised"],
  ["reconstruction", "Reconstruction", "nats, −log p(x|z)"],
  ["kl", "KL", "nats"],
  ["kl_mean", "Lμ", "nats, the means' part of the KL"],
  ["kl_variance", "Lσ", "nats, the variances' part"],
  ["sigma", "Noise σ", "mean posterior deviation, units of z"],
  ["active_units", "Active dimensions", "variance of the mean above 0.01"],
];

export class Curves {
  constructor(world, panel) {
    this.world = world;
    this.lines = [];
    this.note = el("p", { class: "note" });
    this.charts = CHARTS.map(([key, title, unit]) => {
      const last = el("span", { class: "last" });
      const canvas = el("canvas", { class: "chart", role: "img", "aria-label": `${title} over steps` });
      const figure = el("figure", {}, el("figcaption", {}, el("b", { textContent: title }), last, el("small", { textContent: unit })), canvas);
      const chart = { key, figure, canvas, last };
      canvas.addEventListener("pointermove", (event) => this.point(chart, event));
      canvas.addEventListener("pointerleave", () => { this.cursor = null; this.draw(); });
      return chart;
    });
    this.grid = el("div", { class: "charts" }, ...this.charts.map((chart) => chart.figure));
    panel.append(this.note, this.grid);
    on("tab theme", () => this.draw());
  }

  async refresh() {
    const { lines, count } = await this.world.backend.metrics(this.lines.length);
    if (count < this.lines.length) {
      this.lines = [];
      await this.refresh();
    } else if (lines.length) {
      this.lines.push(...lines);
      this.draw();
    }
  }

  point(chart, event) {
    const box = chart.canvas.getBoundingClientRect();
    this.cursor = (event.clientX - box.left) / box.width;
    this.draw();
  }

  draw() {
    if (state.tab !== "curves") return;
    this.note.textContent = this.lines.length ? "Grey: training batches. Blue: the validation split." : "There is no log of a training here.";
    for (const chart of this.charts) this.drawChart(chart);
  }

  drawChart({ key, figure, canvas, last }) {
    const series = ["train", "validation"].map((split) => this.lines.filter((line) => line.split === split && Number.isFinite(line[key])).map((line) => [line.step, line[key]]));
    const all = series.flat();
    figure.hidden = all.length < 2;
    if (figure.hidden) return;
    const { context, width, height } = sharp(canvas, 96);
    const steps = Math.max(...all.map(([step]) => step), 1);
    const sorted = all.map(([, value]) => value).sort((a, b) => a - b);
    let low = sorted[Math.floor(0.03 * sorted.length)];
    let high = sorted[Math.ceil(0.97 * sorted.length) - 1];
    if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
    [low, high] = [low - 0.06 * (high - low), high + 0.06 * (high - low)];
    const left = 38;
    const x = (step) => left + (step / steps) * (width - left - 4);
    const y = (value) => 4 + (1 - (Math.max(low, Math.min(high, value)) - low) / (high - low)) * (height - 22);
    context.font = "10.5px system-ui, sans-serif";
    context.fillStyle = ink("--muted");
    context.strokeStyle = ink("--line");
    context.lineWidth = 1;
    context.textAlign = "right";
    for (const t of ticks(low, high, 4)) {
      context.fillText(short(t), left - 5, y(t) + 3.5);
      context.beginPath();
      context.moveTo(left, y(t));
      context.lineTo(width, y(t));
      context.stroke();
    }
    context.textAlign = "center";
    for (const t of ticks(0, steps, width / 90)) if (x(t) < width - 12) context.fillText(short(t), x(t), height - 3);
    series.forEach((points, which) => {
      context.strokeStyle = ink(which ? "--validation" : "--train");
      context.lineWidth = which ? 2 : 1;
      context.beginPath();
      points.forEach(([step, value], k) => (k ? context.lineTo(x(step), y(value)) : context.moveTo(x(step), y(value))));
      context.stroke();
    });
    const shown = series[1].length ? series[1] : series[0];
    let at = shown[shown.length - 1];
    if (this.cursor !== null && this.cursor !== undefined) {
      const wanted = ((this.cursor * width - left) / (width - left - 4)) * steps;
      at = shown.reduce((best, item) => (Math.abs(item[0] - wanted) < Math.abs(best[0] - wanted) ? item : best));
      context.strokeStyle = ink("--muted");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x(at[0]), 4);
      context.lineTo(x(at[0]), height - 18);
      context.stroke();
    }
    context.fillStyle = ink(series[1].length ? "--validation" : "--train");
    context.beginPath();
    context.arc(x(at[0]), y(at[1]), 2.8, 0, 7);
    context.fill();
    last.textContent = `${at[1].toLocaleString("en", { maximumSignificantDigits: 4 })} at step ${at[0].toLocaleString("en")}`;
  }
}
