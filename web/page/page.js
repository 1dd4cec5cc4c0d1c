// The page: what a person does, and what is shown.

import { listenForBox, wholePixels } from "./box.js";
import { colourOf, drawAll } from "./draw.js";
import { findJoints, loadNetwork } from "./network.js";
import { firstFile, readPicture } from "./picture.js";

const byId = (id) => document.getElementById(id);
const canvas = byId("picture");
const boxFields = ["box-x", "box-y", "box-width", "box-height"].map(byId);

// found belongs to picture and box; it is null while they are newer.
const state = { model: null, name: "", bitmap: null, pixels: null, box: null, found: null };
let network = null;
let running = false;
let stale = false;
let taken = 0;

function say(text) {
  byId("status").textContent = text;
}

function complain(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
}

async function take(file) {
  if (!file) return;
  complain(null);
  const turn = ++taken;
  try {
    const { bitmap, pixels } = await readPicture(file);
    if (turn !== taken) return; // Another was chosen while this one was read.
    Object.assign(state, { name: file.name, bitmap, pixels, box: null, found: null });
  } catch (error) {
    if (turn === taken) complain(error);
    return;
  }
  document.body.classList.add("has-picture");
  byId("box-fields").disabled = false;
  for (const [n, field] of boxFields.entries()) {
    field.max = n % 2 ? state.bitmap.height : state.bitmap.width;
  }
  setBox(null);
}

function setBox(box) {
  Object.assign(state, { box, found: null });
  const shown = box ?? [0, 0, state.bitmap.width, state.bitmap.height];
  boxFields.forEach((field, n) => (field.value = shown[n]));
  byId("whole").disabled = !box;
  find();
}

/** Runs the network on what is chosen now; while it runs, later wishes wait and the last one counts. */
async function find() {
  stale = true;
  if (running || !network) return draw();
  running = true;
  try {
    while (stale && state.pixels) {
      stale = false;
      say("Looking for the joints …");
      draw();
      await new Promise(requestAnimationFrame);
      const { pixels, box } = state;
      const found = await findJoints(network, pixels, box, byId("flip").checked);
      if (!stale) show(found);
    }
  } catch (error) {
    complain(new Error(`The network stopped: ${error.message}`));
    say("");
  } finally {
    running = false;
  }
}

function show(found) {
  state.found = found;
  const { joints, milliseconds, crops } = found;
  const sure = joints.filter(({ score }) => score >= state.model.scoreThreshold).length;
  const what = crops === 2 ? "the crop and its mirror image" : "the crop";
  say(
    `${state.name}: ${sure} of ${joints.length} joints score ${state.model.scoreThreshold} or more. ` +
      `The network took ${milliseconds.toFixed(0)} ms for ${what}.`,
  );
  draw();
}

function draw() {
  fillTable();
  if (!state.bitmap) return;
  const { width, height } = state.bitmap;
  const room = [canvas.parentElement.clientWidth, Math.max(320, 0.8 * window.innerHeight)];
  const zoom = Math.min(room[0] / width, room[1] / height);
  const shown = [width, height].map((side) => Math.max(1, Math.round(side * zoom)));
  [canvas.style.width, canvas.style.height] = shown.map((side) => `${side}px`);
  [canvas.width, canvas.height] = shown.map((side) => Math.round(side * devicePixelRatio));
  drawAll(canvas, state, { showMaps: byId("maps").checked, colourBy: byId("colours").value });
  canvas.setAttribute("aria-label", `${state.name} with the joints that the table lists`);
}

function fillTable() {
  const { model, found } = state;
  if (!model) return;
  const rows = model.joints.map((joint, k) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.append(swatch(colourOf(joint, model, byId("colours").value)), words(joint.name));
    row.append(name, cell(joint.part === null ? "" : words(model.parts[joint.part].name)));
    const { x, y, score } = found?.joints[k] ?? {};
    for (const [value, digits] of [
      [x, 1],
      [y, 1],
      [score, 2],
    ]) {
      row.append(cell(value === undefined ? "–" : value.toFixed(digits), "number"));
    }
    row.classList.toggle("low", score < model.scoreThreshold);
    return row;
  });
  byId("joints").replaceChildren(...rows);
}

function fillLegends({ parts, sideColours }) {
  const entries = (colours) =>
    colours.map(([name, colour]) => {
      const entry = document.createElement("li");
      entry.append(swatch(colour), words(name));
      return entry;
    });
  byId("part-legend").replaceChildren(...entries(parts.map((p) => [p.name, p.colour])));
  byId("side-legend").replaceChildren(...entries(Object.entries(sideColours)));
}

function swatch(colour) {
  const mark = document.createElement("span");
  mark.className = "swatch";
  mark.style.backgroundColor = colour;
  return mark;
}

function cell(text, kind = "") {
  const element = document.createElement("td");
  element.textContent = text;
  element.className = kind;
  return element;
}

function words(name) {
  return name.replaceAll("_", " ");
}

function listen() {
  byId("file").addEventListener("change", (event) => {
    take(firstFile(event.target));
    // The same file can then be chosen again.
    event.target.value = "";
  });
  // The whole page takes a drop, so that none opens the file in place of the page.
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.preventDefault());
  }
  document.addEventListener("drop", (event) => {
    const file = firstFile(event.dataTransfer);
    if (file) take(file);
    else
      complain(new Error("What was dropped is no file; save the picture first and drop its file"));
  });
  const size = () => state.bitmap && [state.bitmap.width, state.bitmap.height];
  listenForBox(canvas, size, () => state.box, (box, done) => {
    if (done) return setBox(box);
    stale = true;
    Object.assign(state, { box, found: null });
    draw();
  });
  for (const field of boxFields) {
    field.addEventListener("change", () =>
      setBox(
        wholePixels(
          boxFields.map(({ valueAsNumber }) => valueAsNumber || 0),
          size(),
        ),
      ),
    );
  }
  byId("whole").addEventListener("click", () => setBox(null));
  byId("flip").addEventListener("change", () => state.bitmap && setBox(state.box));
  byId("maps").addEventListener("change", draw);
  byId("colours").addEventListener("change", draw);
  window.addEventListener("resize", draw);
}

async function start() {
  listen();
  try {
    network = await loadNetwork();
  } catch (error) {
    say("");
    complain(new Error(`The model could not be loaded: ${error.message}`));
    return;
  }
  const { model } = network;
  state.model = model;
  const [height, width] = model.inputSize;
  byId("about").textContent =
    `${model.name}: ${model.joints.length} joints in ${model.parts.length} parts (${model.skeleton}), ` +
    `person crops of ${width} × ${height} pixels, ${model.precision}.`;
  fillLegends(model);
  say("Ready. Drop a picture, or choose one.");
  draw();
  if (state.bitmap) find();
}

start();
