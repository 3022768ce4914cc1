// The map: points, thumbnails or a field of decoded images, drawn once; above them the probe, the lasso and the clouds.

import { $, colour, ink, sharp } from "./draw.js";
import { inside } from "./latent.js";
import { fieldOf } from "./field.js";
import { on, set, state } from "./store.js";
import { paintImages } from "./thumbs.js";
import { paintPoints } from "./points.js";

const SNAP = 7;

export class Map2D {
  constructor(world) {
    this.world = world;
    this.view = { x: 0, y: 0, scale: 1 };
    this.base = $("base");
    this.top = $("map");
    this.probe = $("probe");
    this.layer = document.createElement("canvas");
    this.size = [this.top.clientWidth, this.top.clientHeight]; // looked up once: asking again makes the page lay itself out
    this.clouds = [];
    this.rings = false;
    this.queued = false;
    this.stale = false;
    this.pointers = new Map();
    new ResizeObserver(() => this.resized()).observe($("stage"));
    this.listen();
    on("plane across up", () => { this.fit(); });
    on("view depth hidden lit", () => this.draw());
    on("z", () => {
      this.placeProbe();
      if (state.view === "field" && state.depth === "kept") this.draw();
    });
    on("selection", () => this.drawTop());
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

  toScreen(u, v) {
    const [w, h] = this.size;
    return [w / 2 + (u - this.view.x) * this.view.scale, h / 2 - (v - this.view.y) * this.view.scale];
  }

  screenOf(z) {
    return this.toScreen(...this.world.geometry.project(z, this.axes));
  }

  toPlane(x, y) {
    const [w, h] = this.size;
    return [this.view.x + (x - w / 2) / this.view.scale, this.view.y - (y - h / 2) / this.view.scale];
  }

  fit() {
    if (!this.world.geometry) return;
    const at = this.at;
    const [us, vs] = [0, 1].map((odd) => at.filter((_, i) => i % 2 === odd).sort());
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
    this.size = [this.top.clientWidth, this.top.clientHeight];
    if (!this.world.geometry) return;
    if (this.fitted) this.fit();
    else this.draw();
  }

  // At most once a frame: the points where they or the view have changed, and what lies above them.
  draw() {
    this.stale = true;
    this.drawTop();
  }

  drawTop() {
    if (this.queued || !this.world.geometry) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      if (this.stale) this.drawBase();
      this.stale = false;
      this.drawAbove();
      this.placeProbe();
    });
  }

  drawBase() {
    const { context, width, height } = sharp(this.base, this.size[1]);
    if (state.view === "field") this.drawField(context, width, height);
    const images = state.view === "images" && this.world.atlas;
    const paint = images ? paintImages : paintPoints;
    const alpha = images ? 1 : state.view === "field" ? 0.35 : 0.85;
    const shown = (y) => !state.hidden.has(y);
    const lit = shown(state.lit) ? state.lit : null;
    if (lit === null) {
      paint(this, context, width, height, alpha, shown);
    } else {
      paint(this, context, width, height, 0.12, (y) => y !== lit && shown(y));
      paint(this, context, width, height, 0.95, (y) => y === lit);
    }
    context.globalAlpha = 1;
  }

  // Calls act(i, x, y) for the points on the screen, of the classes that are wanted, in an order of indices or their own.
  visible(width, height, margin, wanted, act, order = null) {
    const { label } = this.world.model;
    const { at, view } = this;
    const [left, top] = [width / 2 - view.x * view.scale, height / 2 + view.y * view.scale];
    for (let k = 0; k < label.length; k++) {
      const i = order ? order[k] : k;
      const x = left + at[2 * i] * view.scale;
      const y = top - at[2 * i + 1] * view.scale;
      if (x < -margin || y < -margin || x > width + margin || y > height + margin || !wanted(label[i])) continue;
      act(i, x, y);
    }
  }

  // A canvas beside the map's, of its size and empty.
  clearLayer(width, height) {
    this.layer.width = this.base.width;
    this.layer.height = this.base.height;
    const context = this.layer.getContext("2d");
    context.scale(this.layer.width / width, this.layer.height / height);
    return context;
  }

  drawField(context, width, height) {
    const field = fieldOf(this, width, height);
    if (!field) return;
    context.globalAlpha = 0.9;
    for (const { canvas, x, y } of field.cells) context.drawImage(canvas, x - field.side / 2, y - field.side / 2, field.side, field.side);
    context.globalAlpha = 1;
  }

  drawAbove() {
    const { context, width, height } = sharp(this.top, this.size[1]);
    if (this.rings) this.drawRings(context);
    this.drawAxes(context, width, height);
    this.drawSelection(context);
    for (const cloud of this.clouds) {
      context.fillStyle = ink("--accent");
      context.globalAlpha = 0.55;
      for (const z of cloud) dot(context, ...this.screenOf(z), 2.5);
      context.globalAlpha = 1;
    }
    this.drawPath(context);
  }

  // Where you are is an element of its own: it moves at every step of a drag, and nothing is drawn again for it.
  placeProbe() {
    this.probe.hidden = !this.world.geometry || !state.z;
    if (this.probe.hidden) return;
    const [x, y] = this.screenOf(state.z);
    this.probe.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
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
      const [x, y] = this.screenOf(mean);
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
      const place = this.screenOf(z);
      if (k) context.lineTo(...place);
      else context.moveTo(...place);
    });
    context.stroke();
    for (const [z, name] of [[path[0], "A"], [path[path.length - 1], "B"]]) {
      const [x, y] = this.screenOf(z);
      context.fillStyle = ink("--accent");
      dot(context, x, y, 8);
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
    const [x, y] = this.screenOf(state.z);
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

function dot(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function rows(flat, dims) {
  return Array.from({ length: flat.length / dims }, (_, i) => flat.subarray(i * dims, (i + 1) * dims));
}
