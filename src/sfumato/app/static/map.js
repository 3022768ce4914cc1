// The map: points, thumbnails or a field of decoded images, drawn once; above them the probe, the lasso and the clouds.

import { $, colour, ink, sharp } from "./draw.js";
import { inside } from "./latent.js";
import { fieldOf } from "./field.js";
import { on, set, state } from "./store.js";
import { tinted } from "./thumbs.js";

const SNAP = 7;
const CELL = 27;

export class Map2D {
  constructor(world) {
    this.world = world;
    this.view = { x: 0, y: 0, scale: 1 };
    this.base = $("base");
    this.top = $("map");
    this.clouds = [];
    this.rings = false;
    this.queued = false;
    this.pointers = new Map();
    new ResizeObserver(() => this.resized()).observe($("stage"));
    this.listen();
    on("plane across up", () => { this.fit(); });
    on("view depth", () => this.draw());
    on("z selection", () => this.drawTop());
    on("hidden", () => this.draw());
  }

  get plane() {
    return state.plane === "dims" ? `${state.across},${state.up}` : state.plane;
  }

  get axes() {
    return this.world.geometry.axes(this.plane);
  }

  get at() {
    return this.world.geometry.coordinates(this.plane);
  }

  get size() {
    return [this.top.clientWidth, this.top.clientHeight];
  }

  toScreen(u, v) {
    const [w, h] = this.size;
    return [w / 2 + (u - this.view.x) * this.view.scale, h / 2 - (v - this.view.y) * this.view.scale];
  }

  toPlane(x, y) {
    const [w, h] = this.size;
    return [this.view.x + (x - w / 2) / this.view.scale, this.view.y - (y - h / 2) / this.view.scale];
  }

  fit() {
    if (!this.world.geometry) return;
    const at = this.at;
    const us = at.filter((_, i) => i % 2 === 0).sort();
    const vs = at.filter((_, i) => i % 2 === 1).sort();
    const q = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    const [left, right, low, high] = [q(us, 0.003), q(us, 0.997), q(vs, 0.003), q(vs, 0.997)];
    const [w, h] = this.size;
    const scale = 0.88 * Math.min(w / (right - left || 1), h / (high - low || 1));
    this.view = { x: (left + right) / 2, y: (low + high) / 2, scale: Number.isFinite(scale) && scale > 0 ? scale : 40 };
    this.fitted = true;
    set({ zoom: "" });
    this.draw();
  }

  // zoom: "x,y,scale" of the address.
  restore(text) {
    const [x, y, scale] = text.split(",").map(Number);
    if ([x, y, scale].every(Number.isFinite) && scale > 1e-3 && scale < 1e5) {
      this.view = { x, y, scale };
      this.fitted = false;
      this.draw();
    }
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    const [u, v] = this.toPlane(x, y);
    const scale = Math.max(1e-2, Math.min(1e4, this.view.scale * factor));
    const [w, h] = this.size;
    this.look({ x: u - (x - w / 2) / scale, y: v + (y - h / 2) / scale, scale });
  }

  look(view) {
    this.view = view;
    this.fitted = false;
    set({ zoom: [view.x.toFixed(2), view.y.toFixed(2), view.scale.toPrecision(3)].join(",") });
    this.draw();
  }

  resized() {
    if (!this.world.geometry) return;
    if (this.fitted) this.fit();
    else this.draw();
  }

  draw() {
    if (this.queued || !this.world.geometry) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.drawBase();
      this.drawTop();
    });
  }

  drawBase() {
    const { context, width, height } = sharp(this.base, this.top.clientHeight);
    const { label } = this.world.model;
    const at = this.at;
    if (state.view === "field") this.drawField(context, width, height);
    if (state.view === "images" && this.world.atlas) {
      this.drawThumbnails(context, width, height);
      return;
    }
    const faint = state.view === "field" ? 0.35 : 0.85;
    const radius = Math.max(1.8, Math.min(6, 1 + 70 / Math.sqrt(at.length / 2) + 0.008 * this.view.scale));
    const discs = new Map();
    context.globalAlpha = faint;
    for (let i = 0; i < label.length; i++) {
      if (state.hidden.has(label[i])) continue;
      const [x, y] = this.toScreen(at[2 * i], at[2 * i + 1]);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      if (!discs.has(label[i])) discs.set(label[i], disc(colour(label[i]), radius));
      const image = discs.get(label[i]);
      context.drawImage(image, x - image.half, y - image.half, 2 * image.half, 2 * image.half);
    }
    context.globalAlpha = 1;
  }

  drawThumbnails(context, width, height) {
    const { label } = this.world.model;
    const { atlas, thumb } = this.world;
    const at = this.at;
    const cell = Math.max(CELL, Math.min(72, 0.3 * this.view.scale));
    const taken = new Set();
    for (let k = 0; k < label.length; k++) {
      const i = this.world.shuffled[k];
      if (state.hidden.has(label[i])) continue;
      const [x, y] = this.toScreen(at[2 * i], at[2 * i + 1]);
      if (x < -cell || y < -cell || x > width + cell || y > height + cell) continue;
      const key = `${Math.floor(x / cell)},${Math.floor(y / cell)}`;
      if (taken.has(key)) continue;
      taken.add(key);
      const [sx, sy] = thumb.place(i);
      const source = tinted(this.world, label[i]);
      const side = cell - 2;
      const [w, h] = [side * Math.min(1, thumb.width / thumb.height), side * Math.min(1, thumb.height / thumb.width)];
      context.drawImage(source ?? atlas, sx, sy, thumb.width, thumb.height, x - w / 2, y - h / 2, w, h);
      if (!source) {
        context.strokeStyle = colour(label[i]);
        context.lineWidth = 1.5;
        context.strokeRect(x - w / 2, y - h / 2, w, h);
      }
    }
  }

  drawField(context, width, height) {
    const field = fieldOf(this, width, height);
    if (!field) return;
    context.globalAlpha = 0.9;
    for (const { canvas, x, y } of field.cells) context.drawImage(canvas, x - field.side / 2, y - field.side / 2, field.side, field.side);
    context.globalAlpha = 1;
  }

  drawTop() {
    if (!this.world.geometry || !state.z) return;
    const { context, width, height } = sharp(this.top, this.top.clientHeight);
    if (this.rings) this.drawRings(context);
    this.drawAxes(context, width, height);
    this.drawSelection(context);
    for (const cloud of this.clouds) {
      context.fillStyle = ink("--accent");
      context.globalAlpha = 0.55;
      for (const z of cloud) {
        const [x, y] = this.toScreen(...this.world.geometry.project(z, this.axes));
        context.beginPath();
        context.arc(x, y, 2.5, 0, 7);
        context.fill();
      }
      context.globalAlpha = 1;
    }
    this.drawPath(context);
    const [x, y] = this.toScreen(...this.world.geometry.project(state.z, this.axes));
    context.lineWidth = 5;
    context.strokeStyle = ink("--paper");
    ring(context, x, y, 10);
    context.lineWidth = 2.5;
    context.strokeStyle = ink("--ink");
    ring(context, x, y, 10);
    context.fillStyle = ink("--accent");
    context.beginPath();
    context.arc(x, y, 3, 0, 7);
    context.fill();
  }

  drawAxes(context, width, height) {
    context.fillStyle = ink("--muted");
    context.font = "12px system-ui, sans-serif";
    const [right, up] = this.world.axisNames(state.plane, state.across, state.up);
    context.strokeStyle = ink("--paper");
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.textAlign = "right";
    context.strokeText(right, width - 12, height - 10);
    context.fillText(right, width - 12, height - 10);
    context.save();
    context.translate(18, 12);
    context.rotate(-Math.PI / 2);
    context.strokeText(up, 0, 0);
    context.fillText(up, 0, 0);
    context.restore();
    context.textAlign = "left";
  }

  drawRings(context) {
    const { geometry, model } = this.world;
    const centres = model.class_means && model.classes ? rows(model.class_means, geometry.dims) : [new Float32Array(geometry.dims)];
    context.lineWidth = 1.2;
    centres.forEach((mean, number) => {
      if (state.hidden.has(number) && centres.length > 1) return;
      const [x, y] = this.toScreen(...geometry.project(mean, this.axes));
      context.strokeStyle = centres.length > 1 ? colour(number) : ink("--ink");
      for (const r of centres.length > 1 ? [1, 2] : [1, 2, 3]) ring(context, x, y, r * this.view.scale);
    });
  }

  drawSelection(context) {
    const polygon = this.lasso ?? null;
    if (polygon && polygon.length > 1) {
      context.beginPath();
      polygon.forEach(([u, v], k) => (k ? context.lineTo(...this.toScreen(u, v)) : context.moveTo(...this.toScreen(u, v))));
      context.closePath();
      context.fillStyle = ink("--accent");
      context.globalAlpha = 0.12;
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = ink("--accent");
      context.lineWidth = 1.5;
      context.stroke();
    }
    if (!state.selection) return;
    context.strokeStyle = ink("--ink");
    context.lineWidth = 1;
    const at = this.at;
    for (const i of state.selection.slice(0, 3000)) ring(context, ...this.toScreen(at[2 * i], at[2 * i + 1]), 4.5);
  }

  drawPath(context) {
    const path = this.world.path?.() ?? null;
    if (!path) return;
    context.strokeStyle = ink("--accent");
    context.lineWidth = 2;
    context.beginPath();
    path.forEach((z, k) => {
      const place = this.toScreen(...this.world.geometry.project(z, this.axes));
      if (k) context.lineTo(...place);
      else context.moveTo(...place);
    });
    context.stroke();
    for (const [z, name] of [[path[0], "A"], [path[path.length - 1], "B"]]) {
      const [x, y] = this.toScreen(...this.world.geometry.project(z, this.axes));
      context.fillStyle = ink("--accent");
      context.beginPath();
      context.arc(x, y, 8, 0, 7);
      context.fill();
      context.fillStyle = ink("--paper");
      context.font = "600 11px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(name, x, y + 4);
      context.textAlign = "left";
    }
  }

  nearestTo(x, y, reach) {
    const { label } = this.world.model;
    const [u, v] = this.toPlane(x, y);
    const found = this.world.geometry.onMap(this.plane, u, v, 1, (i) => !state.hidden.has(label[i]));
    if (!found.length || Math.sqrt(found[0][1]) * this.view.scale > reach) return -1;
    return found[0][0];
  }

  goTo(x, y) {
    const [u, v] = this.toPlane(x, y);
    set({ z: this.world.geometry.lift(this.plane, u, v, state.depth, state.z), source: null });
  }

  nudge(dx, dy) {
    const [x, y] = this.toScreen(...this.world.geometry.project(state.z, this.axes));
    this.goTo(x + dx, y + dy);
  }

  place(event) {
    const box = this.top.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  listen() {
    const { top } = this;
    top.addEventListener("pointerdown", (event) => {
      if (!this.world.geometry) return;
      event.preventDefault();
      top.focus({ preventScroll: true });
      top.setPointerCapture(event.pointerId);
      const [x, y] = this.place(event);
      this.pointers.set(event.pointerId, [x, y]);
      this.moved = false;
      this.start = [x, y];
      this.mode = this.pointers.size > 1 ? "pinch" : event.shiftKey || event.button === 1 ? "pan" : this.lassoing ? "lasso" : "probe";
      if (this.mode === "lasso") this.lasso = [this.toPlane(x, y)];
      if (this.mode === "probe") {
        const i = this.nearestTo(x, y, event.pointerType === "touch" ? 2 * SNAP : SNAP);
        if (i >= 0) this.world.goToExample(i);
        else this.goTo(x, y);
      }
    });
    top.addEventListener("pointermove", (event) => {
      const [x, y] = this.place(event);
      if (!this.pointers.has(event.pointerId)) {
        this.hover(x, y);
        return;
      }
      const before = this.pointers.get(event.pointerId);
      if (this.mode === "pinch") this.pinch(event.pointerId, [x, y]);
      this.pointers.set(event.pointerId, [x, y]);
      if (Math.hypot(x - this.start[0], y - this.start[1]) > 3) this.moved = true;
      if (this.mode === "pan") {
        const { scale } = this.view;
        this.look({ x: this.view.x - (x - before[0]) / scale, y: this.view.y + (y - before[1]) / scale, scale });
      } else if (this.mode === "lasso") {
        this.lasso.push(this.toPlane(x, y));
        this.drawTop();
      } else if (this.mode === "probe" && this.moved) {
        this.goTo(x, y);
      }
    });
    const up = (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      if (this.mode === "lasso" && this.lasso?.length > 2) this.select();
    };
    top.addEventListener("pointerup", up);
    top.addEventListener("pointercancel", up);
    top.addEventListener("pointerleave", () => { $("tip").hidden = true; });
    top.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...this.place(event));
    }, { passive: false });
    top.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 40 : 8;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (moves[event.key]) {
        event.preventDefault();
        this.nudge(...moves[event.key]);
      } else if (event.key === "Enter") {
        const [[i]] = this.world.geometry.nearest(state.z, 1);
        this.world.goToExample(i);
      }
    });
  }

  pinch(id, now) {
    const others = [...this.pointers].filter(([other]) => other !== id);
    if (!others.length) return;
    const [, other] = others[0];
    const before = this.pointers.get(id);
    const was = Math.hypot(before[0] - other[0], before[1] - other[1]);
    const is = Math.hypot(now[0] - other[0], now[1] - other[1]);
    if (was > 0 && is > 0) this.zoom(is / was, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  select() {
    const { label } = this.world.model;
    const at = this.at;
    const found = [];
    for (let i = 0; i < label.length; i++) {
      if (!state.hidden.has(label[i]) && inside(this.lasso, at[2 * i], at[2 * i + 1])) found.push(i);
    }
    set({ selection: found });
  }

  clearSelection() {
    this.lasso = null;
    set({ selection: null });
    this.drawTop();
  }

  hover(x, y) {
    const tip = $("tip");
    const i = this.world.geometry ? this.nearestTo(x, y, SNAP) : -1;
    tip.hidden = i < 0;
    if (i < 0) return;
    this.world.describe(tip, i);
    tip.style.left = `${Math.min(x + 14, this.size[0] - 150)}px`;
    tip.style.top = `${Math.max(6, y - 30)}px`;
  }
}

function ring(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
}

function rows(flat, dims) {
  return Array.from({ length: flat.length / dims }, (_, i) => flat.subarray(i * dims, (i + 1) * dims));
}

// A soft disc, drawn once for each colour: smoke, not a hard line.
function disc(fill, radius) {
  const half = Math.ceil(radius * 1.9);
  const scale = 3;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * half * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const smoke = context.createRadialGradient(half, half, 0, half, half, half);
  smoke.addColorStop(0, fill);
  smoke.addColorStop(0.42, fill);
  smoke.addColorStop(0.6, `${fill}55`);
  smoke.addColorStop(1, `${fill}00`);
  context.fillStyle = smoke;
  context.fillRect(0, 0, 2 * half, 2 * half);
  canvas.half = half;
  return canvas;
}
