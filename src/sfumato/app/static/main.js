// The page comes together: the world that all rooms share, the keys, and the eye on a run that still trains.

import { $, colour, el, forgetInks, number, takeColours } from "./draw.js";
import { server } from "./api.js";
import { offline } from "./offline.js";
import { Curves } from "./curves.js";
import { Geometry } from "./latent.js";
import { Here } from "./here.js";
import { Map2D } from "./map.js";
import { followState, on, readAddress, set, state } from "./store.js";
import { Path } from "./path.js";
import { Picture } from "./image.js";
import { prepare } from "./thumbs.js";
import { Sample } from "./sample.js";
import { saveSelection } from "./selection.js";
import { Tour } from "./tour.js";

const TABS = [["sample", "Sample"], ["path", "Path"], ["image", "Your image"], ["curves", "Curves"], ["tour", "Tour"]];
const LOOK_MS = 2000;

const world = {
  backend: window.SFUMATO ? offline(window.SFUMATO) : server, model: null, geometry: null, atlas: null, theme: "", shuffled: [],

  tell(error) {
    $("notice").hidden = !error;
    if (error) $("notice").textContent = error.message ?? String(error);
  },

  nameOf(i) {
    const { model } = world;
    const file = model.items?.[i] ?? (model.row ? `example ${model.row[i].toLocaleString("en")}` : `sample ${i}`);
    return model.label[i] >= 0 ? `${model.names[model.label[i]]} · ${file}` : file;
  },

  describe(tip, i) {
    tip.replaceChildren(el("i", { class: "dot" }), el("span", { textContent: world.nameOf(i) }));
    tip.firstChild.style.background = colour(world.model.label[i]);
  },

  thumbnail(canvas, i) {
    if (!world.atlas) return;
    const { thumb } = world;
    canvas.width = thumb.width;
    canvas.height = thumb.height;
    canvas.getContext("2d").drawImage(world.atlas, ...thumb.place(i), thumb.width, thumb.height, 0, 0, thumb.width, thumb.height);
  },

  async goToExample(i) {
    const y = world.model.label[i];
    set({ z: world.geometry.of(i), ...(world.model.decoder_sees_class && y >= 0 ? { as: y } : {}) });
    try {
      const found = await world.backend.example(i);
      set({ source: { pixels: found.pixels, name: world.nameOf(i) } });
    } catch (error) {
      world.tell(error);
    }
  },

  axisNames(plane, across, up) {
    if (plane === "classes") return ["between the classes, first direction →", "second direction →"];
    if (plane === "variance") return ["first principal direction →", "second →"];
    return [`z${across} →`, `z${up} →`];
  },
};

world.map = new Map2D(world);
const here = new Here(world);
const rooms = [
  new Sample(world, $("panel-sample")),
  new Path(world, $("panel-path")),
  new Picture(world, $("panel-image")),
  (world.curves = new Curves(world, $("panel-curves"))),
  new Tour(world, $("panel-tour")),
];
const [, path, picture, , tour] = rooms;
window.sfumato = { state, world, times: here.times, decodes: here.decode };

function buildTabs() {
  $("tabs").replaceChildren(...TABS.map(([key, title]) => el("button", {
    type: "button", role: "tab", id: `tab-${key}`, textContent: title, "aria-controls": `panel-${key}`, onclick: () => set({ tab: key }),
  })));
  $("tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = TABS.findIndex(([key]) => key === state.tab);
    const [key] = TABS[(at + by + TABS.length) % TABS.length];
    set({ tab: key });
    $(`tab-${key}`).focus();
  });
  const show = () => TABS.forEach(([key]) => {
    $(`tab-${key}`).setAttribute("aria-selected", state.tab === key);
    $(`tab-${key}`).tabIndex = state.tab === key ? 0 : -1;
    if (state.tab === key) $("tabs").scrollLeft = $(`tab-${key}`).offsetLeft - $("tabs").offsetLeft - 40;
    $(`panel-${key}`).hidden = state.tab !== key;
  });
  on("tab", show);
  show();
}

function buildTools() {
  const { model } = world;
  const planes = [];
  if (model.plane_classes) planes.push(["classes", "classes"]);
  planes.push(["variance", "principal"]);
  if (model.latent_dim > 1) planes.push(["dims", "dimensions"]);
  $("plane").replaceChildren(...planes.map(([value, text]) => el("option", { value, textContent: text })));
  for (const key of ["across", "up"]) {
    $(key).replaceChildren(...Array.from(model.order.slice(0, 256), (d) => el("option", { value: d, textContent: `z${d}` })));
  }
  const present = new Set(model.label);
  $("classes").replaceChildren(...model.names.map((name, y) => chipOf(name, y, !present.has(y))));
  $("count").textContent = `${number(world.geometry.n, 0)} ${model.total > world.geometry.n ? `of ${number(model.total, 0)} ` : ""}${model.of}`;
  showTools();
}

// One class of the legend: a click hides it, to be on it shows it above all others.
function chipOf(name, y, hidden) {
  const lit = () => set({ lit: y });
  const dark = () => set({ lit: null });
  const chip = el("button", {
    type: "button", class: "chip", "aria-pressed": String(!state.hidden.has(y)), title: "Show or hide", hidden,
    onpointerenter: lit, onpointerleave: dark, onfocus: lit, onblur: dark,
    onclick: () => {
      const next = new Set(state.hidden);
      if (!next.delete(y)) next.add(y);
      chip.setAttribute("aria-pressed", String(!next.has(y)));
      set({ hidden: next });
    },
  }, el("i", { class: "dot" }), el("span", { textContent: name }));
  chip.firstChild.style.background = colour(y);
  return chip;
}

function showTools() {
  $("plane").value = state.plane;
  $("across").value = state.across;
  $("up").value = state.up;
  $("across-label").hidden = $("up-label").hidden = state.plane !== "dims";
  $("depth").value = state.depth;
  for (const radio of document.querySelectorAll("#view input")) radio.checked = radio.value === state.view;
  $("selection").hidden = !state.selection;
  if (state.selection) $("selected").textContent = `${state.selection.length.toLocaleString("en")} selected`;
  $("save").disabled = !state.selection?.length;
}

function lasso(yes) {
  world.map.lassoing = yes;
  $("lasso").setAttribute("aria-pressed", String(yes));
  $("map").classList.toggle("lassoing", yes);
}

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  forgetInks();
  world.theme = getComputedStyle(document.documentElement).getPropertyValue("--paper");
  set({ theme: world.theme });
  world.map.draw();
  here.sliders.forEach((slider) => slider.draw());
}

function otherTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", theme);
  } catch { /* private windows */ }
  paint(theme);
}

function allowed() {
  const { model } = world;
  const numbers = Array.from({ length: Math.max(model.names.length, 1) + 1 }, (_, i) => i - 1);
  const dims = Array.from({ length: model.latent_dim + 1 }, (_, i) => i - 1);
  return {
    plane: [...$("plane").options].map((option) => option.value).concat(""), view: ["points", "images", "field"],
    depth: ["data", "kept", "centre"], tab: TABS.map(([key]) => key), way: ["spherical", "linear"],
    as: numbers, class: numbers, across: dims, up: dims,
  };
}

function fromAddress() {
  const found = readAddress(world.model.latent_dim, allowed());
  const [first, second] = [world.model.order[0], world.model.order[Math.min(1, world.model.order.length - 1)]];
  const patch = { ...found };
  if (!(patch.plane ?? state.plane)) patch.plane = world.model.plane_classes ? "classes" : "variance";
  if ((patch.across ?? state.across) < 0) patch.across = first;
  if ((patch.up ?? state.up) < 0) patch.up = second;
  if (!patch.z && !state.z) patch.z = world.geometry.of(world.geometry.nearest(world.geometry.centre, 1)[0][0]);
  if (patch.z === null) delete patch.z;
  set(patch);
  if (found.zoom) world.map.restore(found.zoom);
}

async function load(version) {
  const model = await world.backend.points();
  const first = !world.model;
  const same = !first && model.latent_dim === world.model.latent_dim;
  world.model = model;
  takeColours(model.colours);
  world.geometry = new Geometry(model);
  const { n } = world.geometry;
  world.shuffled = Uint32Array.from({ length: n }, (_, i) => (i * (n % 7919 ? 7919 : 7907)) % n); // primes: every number comes once
  buildTools();
  if (!same) fromAddress();
  showTools();
  if (first) world.map.fit();
  if (first && state.zoom === "" && location.hash.includes("zoom=")) fromAddress();
  if (model.shape.length === 3) {
    world.backend.atlas(version).then((atlas) => {
      prepare(world, atlas);
      here.showNear();
      picture.show();
      world.map.draw();
    }).catch((error) => world.tell(error));
  }
  here.build();
  rooms.forEach((room) => room.build?.());
  world.map.draw();
  followState();
  document.documentElement.dataset.ready = String(model.version);
}

async function look() {
  try {
    const now = await world.backend.state();
    $("name").textContent = now.name;
    document.title = `${now.name} · sfumato`;
    const steps = now.steps ? `step ${number(now.step, 0)} of ${number(now.steps, 0)}` : "";
    const weights = now.weights !== null && now.weights !== now.step ? ` · shown: step ${number(now.weights, 0)}` : "";
    $("progress").textContent = now.kind === "model" ? "a model" : now.finished ? `finished · ${steps}` : `training · ${steps}${weights}`;
    if (now.version === 0) world.tell("No checkpoint yet: the map comes with the first one. The curves are live.");
    else if (now.version !== world.model?.version) {
      await load(now.version);
      world.tell(null);
    }
    if (!now.finished || !world.curves.lines.length) await world.curves.refresh();
    if (!now.finished) setTimeout(look, LOOK_MS);
    else setTimeout(look, 15 * LOOK_MS);
  } catch (error) {
    world.tell(error);
    setTimeout(look, LOOK_MS);
  }
}

function keys(event) {
  const typing = event.target.closest("input:not([type=range]):not([type=radio]), select, textarea, dialog[open]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !world.model) return;
  const views = { 1: "points", 2: "images", 3: "field" };
  const planes = [...$("plane").options].map((option) => option.value);
  const acts = {
    p: () => set({ plane: planes[(planes.indexOf(state.plane) + 1) % planes.length] }),
    l: () => lasso(!world.map.lassoing), r: () => here.random(), a: () => path.take("a"), b: () => path.take("b"),
    d: otherTheme, "+": () => world.map.zoom(1.25), "=": () => world.map.zoom(1.25), "-": () => world.map.zoom(0.8),
    0: () => world.map.fit(), "[": () => tour.step(-1), "]": () => tour.step(1), "?": () => $("keys").showModal(),
    escape: () => { lasso(false); world.map.clearSelection(); },
    " ": () => event.target.closest("button, input, label") || (event.preventDefault(), path.toggle()),
  };
  const key = event.key.toLowerCase();
  if (views[key]) set({ view: views[key] });
  else if (acts[key]) acts[key]();
}

for (const id of ["plane", "depth"]) $(id).addEventListener("change", (event) => set({ [id]: event.target.value }));
for (const id of ["across", "up"]) $(id).addEventListener("change", (event) => set({ [id]: Number(event.target.value) }));
for (const radio of document.querySelectorAll("#view input")) radio.addEventListener("change", () => set({ view: radio.value }));
$("lasso").addEventListener("click", () => lasso(!world.map.lassoing));
$("in").addEventListener("click", () => world.map.zoom(1.4));
$("out").addEventListener("click", () => world.map.zoom(1 / 1.4));
$("fit").addEventListener("click", () => world.map.fit());
$("clear").addEventListener("click", () => world.map.clearSelection());
$("save").addEventListener("click", () => saveSelection(world, state.selection));
$("theme").addEventListener("click", otherTheme);
$("help").addEventListener("click", () => $("keys").showModal());
on("plane across up view depth selection", showTools);
document.addEventListener("keydown", keys);
window.addEventListener("hashchange", () => world.model && fromAddress());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());
try {
  if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
} catch { /* private windows */ }
if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash);
buildTabs();
paint();
look();
