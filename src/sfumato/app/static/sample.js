// Sampling: a class, a temperature, a sheet of new images; each one is a place to go to.

import { cell, drawExample, el, number, oneAtATime, sizeOf } from "./draw.js";
import { on, set, state } from "./store.js";

const COUNT = 25;

export class Sample {
  constructor(world, panel) {
    this.world = world;
    this.fill = oneAtATime(() => this.ask());
    this.sheet = el("div", { class: "sheet" });
    this.choice = el("select", { id: "class", onchange: () => set({ class: Number(this.choice.value) }) });
    this.label = el("label", {}, el("span", { textContent: "Class" }), this.choice);
    this.heat = el("input", { type: "range", id: "temperature", min: 0, max: 2, step: 0.05, oninput: () => set({ temperature: Number(this.heat.value) }) });
    this.shown = el("output");
    this.note = el("p", { class: "note" });
    panel.append(
      el("div", { class: "row" }, this.label,
        el("label", {}, el("span", { textContent: "Temperature" }), this.heat, this.shown),
        el("button", { type: "button", id: "again", textContent: "New", onclick: () => set({ seed: state.seed + 1 }) })),
      this.sheet, this.note);
    this.cells = Array.from({ length: COUNT }, (_, k) => cell(`Sample ${k + 1}: go there`, () => this.go(k)));
    this.sheet.append(...this.cells);
    on("class temperature seed", () => this.draw());
    on("tab", () => this.draw());
  }

  build() {
    const { model } = this.world;
    this.label.hidden = !model.classes;
    this.choice.replaceChildren(el("option", { value: -1, textContent: "any" }),
      ...(model.classes ? model.names : []).map((name, i) => el("option", { value: i, textContent: name })));
    this.asked = "";
    this.draw();
  }

  draw() {
    if (state.tab !== "sample" || !this.world.model) return;
    this.choice.value = state.class;
    this.heat.value = state.temperature;
    this.shown.textContent = number(state.temperature, 2);
    this.fill();
  }

  async ask() {
    const { world } = this;
    const key = [state.class, state.temperature, state.seed, world.model.version].join();
    if (key === this.asked) return;
    try {
      this.found = await world.backend.sample(COUNT, state.class < 0 ? null : state.class, state.temperature, state.seed);
      this.asked = key;
      const size = sizeOf(world.model);
      this.cells.forEach((made, k) => {
        drawExample(made.canvas, this.found.pixels, k * size, world.model);
        const y = this.found.y[k];
        made.title = y >= 0 ? `${world.model.names[y]}: go there` : "go there";
      });
      this.note.textContent = state.temperature === 1 ? "Draws from the prior, decoded. Choose one to go there."
        : `The prior's standard deviation times ${number(state.temperature, 2)}.`;
    } catch (error) {
      world.tell(error);
    }
  }

  go(k) {
    const dims = this.world.model.latent_dim;
    const y = this.found.y[k];
    set({ z: this.found.z.slice(k * dims, (k + 1) * dims), source: null, ...(this.world.model.decoder_sees_class && y >= 0 ? { as: y } : {}) });
  }
}
