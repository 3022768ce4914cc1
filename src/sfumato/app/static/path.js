// The path: from one image of yours to another, as a strip of film, and played.

import { $, cell, drawExample, el, oneAtATime, pixelsOf, sizeOf } from "./draw.js";
import { between, concat } from "./latent.js";
import { on, set, state } from "./store.js";

const FRAMES = 12;
const SECONDS = 4;

export class Path {
  constructor(world, panel) {
    this.world = world;
    this.fill = oneAtATime(() => this.decode());
    this.slots = Object.fromEntries(["a", "b"].map((key) => [key, this.slot(key)]));
    this.way = el("select", { id: "way", onchange: () => set({ way: this.way.value }) },
      el("option", { value: "spherical", textContent: "spherical" }), el("option", { value: "linear", textContent: "straight" }));
    this.play = el("button", { type: "button", id: "play", textContent: "Play", onclick: () => this.toggle() });
    this.strip = el("div", { class: "film" });
    this.frames = Array.from({ length: FRAMES }, (_, k) => cell(`Frame ${k + 1}: go there`, () => this.go(k / (FRAMES - 1))));
    this.strip.append(...this.frames);
    this.note = el("p", { class: "note" });
    panel.append(
      el("div", { class: "ends" }, this.slots.a.box, el("span", { class: "arrow", "aria-hidden": "true", textContent: "→" }), this.slots.b.box),
      el("div", { class: "row" }, el("label", {}, el("span", { textContent: "Way" }), this.way), this.play,
        el("button", { type: "button", id: "swap", textContent: "Swap", onclick: () => set({ a: state.b, b: state.a }) })),
      this.strip, this.note);
    $("set-a").addEventListener("click", () => this.take("a"));
    $("set-b").addEventListener("click", () => this.take("b"));
    on("a b way tab as", () => this.draw());
    world.path = () => (state.a && state.b && state.tab === "path" ? Array.from({ length: 33 }, (_, k) => this.at(k / 32)) : null);
  }

  slot(key) {
    const name = key.toUpperCase();
    const canvas = el("canvas");
    const file = el("input", { type: "file", accept: "image/*", class: "hidden", id: `file-${key}`, "aria-label": `Picture for ${name}`, onchange: () => file.files[0] && this.load(key, file.files[0]) });
    const button = el("button", { type: "button", class: "cell", "aria-label": `${name}: go there`, onclick: () => state[key] && set({ z: state[key], source: null }) }, canvas);
    const box = el("div", { class: "slot" }, button,
      el("div", {}, el("b", { textContent: name }), el("br"),
        el("button", { type: "button", class: "quiet", textContent: "from here", onclick: () => this.take(key) }), el("br"),
        file, el("label", { class: "quiet", htmlFor: `file-${key}`, textContent: "a picture…" })));
    box.addEventListener("dragover", (event) => event.preventDefault());
    box.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      $("room").classList.remove("dropping");
      if (event.dataTransfer.files[0]) this.load(key, event.dataTransfer.files[0]);
    });
    return { box, canvas, button };
  }

  async load(key, file) {
    try {
      const found = await this.world.backend.image(file, state.as);
      set({ [key]: Float32Array.from(found.mean) });
    } catch (error) {
      this.world.tell(error);
    }
  }

  take(key) {
    set({ [key]: Float32Array.from(state.z), tab: "path" });
  }

  build() {
    if (!state.a || !state.b) {
      const { geometry, model } = this.world;
      const first = 0;
      let last = geometry.n - 1;
      for (let i = 1; i < geometry.n; i++) if (model.label[i] !== model.label[first]) { last = i; break; }
      set({ a: state.a ?? geometry.of(first), b: state.b ?? geometry.of(last) });
    }
    this.draw();
  }

  at(t) {
    return between(state.a, state.b, t, state.way);
  }

  draw() {
    this.world.map.drawTop();
    if (state.tab !== "path" || !this.world.model || !state.a || !state.b) return;
    this.way.value = state.way;
    this.fill();
  }

  async decode() {
    const { world } = this;
    try {
      const zs = Array.from({ length: FRAMES }, (_, k) => this.at(k / (FRAMES - 1)));
      const pixels = pixelsOf(await world.backend.decode(concat(zs), state.as), world.model);
      const size = sizeOf(world.model);
      this.frames.forEach((made, k) => drawExample(made.canvas, pixels, k * size, world.model));
      drawExample(this.slots.a.canvas, pixels, 0, world.model);
      drawExample(this.slots.b.canvas, pixels, (FRAMES - 1) * size, world.model);
      this.note.textContent = state.way === "spherical"
        ? "Along the great arc, which keeps to the radius where the prior has its mass."
        : "Straight through; in many dimensions its middle is where no sample lies.";
    } catch (error) {
      world.tell(error);
    }
  }

  go(t) {
    set({ z: this.at(t), source: null });
  }

  toggle() {
    if (this.playing) {
      cancelAnimationFrame(this.playing);
      this.playing = 0;
      this.play.textContent = "Play";
      return;
    }
    if (!state.a || !state.b) return;
    set({ tab: "path" });
    const began = performance.now();
    this.play.textContent = "Stop";
    const step = (now) => {
      const t = Math.min(1, (now - began) / (1000 * SECONDS));
      this.go((1 - Math.cos(Math.PI * t)) / 2);
      if (t < 1 && this.playing) this.playing = requestAnimationFrame(step);
      else {
        this.playing = 0;
        this.play.textContent = "Play";
      }
    };
    this.playing = requestAnimationFrame(step);
  }
}
