// The page: one session at a time, its state as the server last sent it.

import { getBlob, getJson, setToken, takeTokenFromAddress } from "./api.js";
import { fillBoxes } from "./boxlist.js";
import { Changes } from "./changes.js";
import { download } from "./download.js";
import { Evidence } from "./evidence.js";
import { wireFiles } from "./files.js";
import { keepFocus, wireFocus } from "./focus.js";
import { fillGlance } from "./glance.js";
import { drawRamp } from "./heat.js";
import { wireHeartbeat } from "./heartbeat.js";
import { announce, attempt, hideInfo, hideProblem, onGone, showProblem } from "./messages.js";
import { fillNotes, hasTyped, send as sendNotes, sendAgain, wireNotes } from "./notes.js";
import * as opening from "./opening.js";
import { ConceptList, DiagnosisList, fillWarnings, signed } from "./panels.js";
import { wholeState, whatMoved } from "./spoken.js";
import { wireTheme } from "./theme.js";
import { Viewer } from "./viewer.js";
import { at, indices, model, path, picked, set, state, target } from "./view.js";
import { WhatIf } from "./what_if.js";
import { fillWords, wireWords } from "./words.js";

const BUTTONS = ["undo", "redo", "reset", "download", "close"]; // of the image that is open

let connected = null; // a promise: the model is known, or the page shows why not
let beat = null;
let whatIf = null;
let viewer = null;
let stage = null; // of the viewer
let diagnoses = null;
let concepts = null;
let evidence = null;
let isSliding = false; // the reader holds alpha's slider
const changes = new Changes({
  answered: changed,
  refused: () => { if (state) render(); }, // as the server last sent it, whatever the controls show
  ended: (went) => {
    if (went) sendAgain();
    evidence.show();
  },
});

// --- opening and closing

async function connect() {
  set({ model: await attempt(() => getJson("model")) });
  if (!model) return;
  hideProblem();
  at("model-name").textContent = model.name;
  at("model-name").title = `sha256 ${model.sha256}`;
  at("version").textContent = `Model ${model.sha256.slice(0, 12)}.`;
  at("limits").textContent = `up to ${+(model.max_bytes / 2 ** 20).toFixed(1)} MiB and ${+(model.max_pixels / 1e6).toFixed(1)} million pixels`;
  at("replacements").hidden = model.replacements.length < 2;
  at("scores-notice").textContent = model.notices.join(" ");
  at("zero-warning").textContent = model.zero_warning;
  at("edit-warning").textContent = model.edit_warning;
  at("edit-warning").hidden = !model.edit_warning;
  at("no-medians").hidden = model.contributions_from !== "zero";
  drawRamp(at("ramp"), model.palette);
  fillWords(model);
  diagnoses = new DiagnosisList(at("diagnoses"), { onPick: pickTarget });
  concepts = new ConceptList(
    { active: at("concepts"), others: at("other-concepts"), summary: at("others-title"), details: at("others") },
    { onPick: (k) => pickConcept(k), onDecide: decide, hasAtlas: model.has_atlas },
  );
  evidence = new Evidence({ stage, rows: () => concepts.rows, onPick: (m) => pickConcept(picked, m) });
  beat ??= wireHeartbeat({
    list: opening.list, isBusy: () => changes.isBusy, onGone: opening.lost,
    onChanged: () => showProblem(Object.assign(new Error("This image was changed in another tab or window."), { reason: "revision" })),
  });
  await opening.resume();
}

async function show(opened) {
  set({ state: opened });
  evidence.clear();
  const isLeft = () => state?.session !== opened.session; // another image is on its way to the page
  const blob = await attempt(() => getBlob(`${path()}/image`));
  if (!blob || isLeft()) return;
  const image = at("image");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  await image.decode().catch((error) => { if (!isLeft()) throw error; });
  if (isLeft()) return;
  viewer.open();
  at("image").alt = `The image ${state.image.name}`;
  at("stage").style.setProperty("--ratio", String(state.image.width / state.image.height));
  at("image-facts").textContent = `${state.image.name}, ${state.image.width} \u00d7 ${state.image.height} px`;
  at("image-facts").title = `sha256 ${state.image.sha256}`;
  at("start").hidden = true;
  at("work").hidden = false;
  document.body.classList.add("open");
  const byBefore = indices(state.diagnoses, (d) => d.before.probability);
  const called = byBefore.find((t) => state.diagnoses[t].before.present);
  set({ target: called ?? byBefore[0], prototype: null });
  diagnoses.fill(state.diagnoses, byBefore);
  concepts.fill(state.concepts);
  set({ picked: concepts.arrange(state, target), mapShown: state.concepts.some((c) => c.active) });
  setTool("look");
  render();
  await opening.remember();
  if (isLeft()) return;
  announce(`${state.image.name} is open. ${wholeState(state)}`);
  await evidence.show();
}

// no image is shown; where the focus was in it, it goes on
function leave() {
  set({ state: null });
  URL.revokeObjectURL(at("image").src);
  at("image").removeAttribute("src");
  viewer.close();
  at("work").hidden = true;
  at("start").hidden = false;
  document.body.classList.remove("open");
  for (const id of BUTTONS) at(id).disabled = true;
  keepFocus();
}

// the state that another tab left
async function reload() {
  const now = await attempt(() => getJson(path()));
  if (!now || now.session !== state?.session) return;
  hideProblem();
  await show(now);
  sendAgain();
}

// --- edits

const run = (todo) => changes.add(todo);
const settled = () => { // also a region that keys have just moved
  stage.commit();
  return changes.settled();
};

async function changed(answer, before, ms) {
  set({ state: answer });
  hideProblem();
  hideInfo();
  render();
  at("timing").textContent = `updated in ${Math.max(1, Math.round(ms))} ms`;
  if (before.num_steps !== state.num_steps) announce(whatMoved(before, state));
  await opening.remember();
}

function decide(k, decision) {
  const { name } = state.concepts[k];
  run((edits) => {
    if (edits.decisions[name] === decision) delete edits.decisions[name];
    else edits.decisions[name] = decision;
  });
}

function addBox(box) {
  if (state.edits.boxes.length >= model.max_boxes) {
    showProblem(new Error(`At most ${model.max_boxes} regions are possible: remove one first.`));
    return;
  }
  run((edits) => edits.boxes.push(box));
}

// changed: null removes it
function changeBox(i, changed) {
  const old = JSON.stringify(state?.edits.boxes[i]); // its number may change meanwhile
  run((edits) => {
    const at = edits.boxes.findIndex((box) => JSON.stringify(box) === old);
    if (at >= 0) edits.boxes.splice(at, 1, ...(changed ? [changed] : []));
  });
}

const removeBox = (i) => changeBox(i, null);

const alpha = () => Number(at("alpha").value) / 100;

function setTool(tool) {
  for (const input of document.getElementsByName("tool")) input.checked = input.value === tool;
  stage.setTool(tool);
}

// --- showing

function pickTarget(t) {
  set({ target: t });
  concepts.arrange(state, t);
  render();
  evidence.show();
}

function pickConcept(k, m = null) {
  set({ picked: k, prototype: m, mapShown: true });
  render();
  evidence.show();
}

function render() {
  diagnoses.update(state.diagnoses, target);
  concepts.update(state, { target, picked });
  fillGlance(state, target, pickTarget);
  fillWarnings(at("notes"), state, model);
  fillNotes(state);
  fillBoxes(at("boxes"), state, {
    onRemove: removeBox, onChange: changeBox, onSelect: (i) => viewer.select(i), onPoint: (i) => stage.show({ highlighted: i }),
    otherwise: at("stage"), selected: stage.selected,
  });
  const num = state.edits.boxes.length;
  at("num-boxes").textContent = num ? String(num) : "none: draw one on the image";
  at("alpha").disabled = !num;
  if (!isSliding && !changes.hasWaiting) { // else what the reader sets is on its way
    at("alpha").value = String(Math.round(100 * state.edits.alpha));
    at("alpha-value").textContent = state.edits.alpha.toFixed(2);
  }
  const { replacement } = state.edits;
  for (const input of document.getElementsByName("replacement")) input.checked = input.value === replacement;
  at("undo").disabled = !state.can_undo;
  at("redo").disabled = !state.can_redo;
  at("reset").disabled = !num && !Object.keys(state.edits.decisions).length
    && state.edits.alpha === model.default_alpha && replacement === model.default_replacement;
  at("download").disabled = false;
  at("close").disabled = false;
  at("zero-warning").classList.toggle("bad", replacement === "zero");
  const shown = state.diagnoses[target];
  const sum = state.concepts.reduce((total, c) => total + c.contribution[target], 0);
  at("target-name").textContent = shown.name;
  const from = model.contributions_from === "zero" ? "bias" : "an image without findings";
  at("sum-text").textContent = `${from} ${signed(shown.base)}, all findings together ${signed(sum)}: total ${signed(shown.logit)}`;
  stage.show({ boxes: state.edits.boxes, cells: state.safety.boxes.map((box) => box.cells), map: state.map });
  evidence.paint();
  whatIf.show();
  keepFocus();
}

async function saveRecord(kind) {
  await sendNotes();
  if (!state || hasTyped()) return; // the page says why the texts are not in the record
  if (await download(kind)) opening.list.render();
}

// --- wiring

function wire() {
  onGone(opening.lost);
  wireFocus();
  opening.wireOpening({ connected: async () => { if (!model) await connected; return model; }, settled, show, leave });
  whatIf = new WhatIf({ onApply: (decisions) => run((edits) => Object.assign(edits.decisions, decisions)) });
  wireNotes(run);
  viewer = new Viewer({ addBox, changeBox, removeBox, setTool, announce, paint: () => evidence?.paint() });
  stage = viewer.stage;
  for (const id of ["undo", "redo", "reset"]) at(id).addEventListener("click", () => run(id));
  for (const id of ["download", "save"]) at(id).addEventListener("click", () => saveRecord("json"));
  at("print").addEventListener("click", () => saveRecord("html"));
  at("close").addEventListener("click", opening.close);
  at("problem-close").addEventListener("click", hideProblem);
  at("info-close").addEventListener("click", hideInfo);
  at("problem-reload").addEventListener("click", reload);
  at("others").addEventListener("toggle", () => evidence?.showNearThumbs());
  for (const input of document.getElementsByName("tool")) {
    input.addEventListener("change", () => setTool(input.value));
  }
  for (const input of document.getElementsByName("replacement")) {
    input.addEventListener("change", () => run((edits) => { edits.replacement = input.value; }));
  }
  at("alpha").addEventListener("input", () => {
    isSliding = true;
    at("alpha-value").textContent = alpha().toFixed(2);
  });
  at("alpha").addEventListener("change", () => { // released: one step, not one a pixel
    isSliding = false;
    const value = alpha();
    run((edits) => { edits.alpha = value; });
  });
  at("alpha").addEventListener("blur", () => { isSliding = false; }); // put back where it was: no change
  at("opacity").addEventListener("input", () => state && evidence.paint());
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(at("token").value);
    at("token").value = "";
    at("token-dialog").close();
    connected = connect();
  });
  document.addEventListener("keydown", shortcut);
  wireFiles(opening.openFiles);
  wireWords();
  wireTheme();
}

function shortcut(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || !state || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("textarea, input[type=text]")) return; // undo of typing
  const key = event.key.toLowerCase();
  const action = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
  if (!action) return;
  event.preventDefault();
  run(action);
}

takeTokenFromAddress();
wire();
connected = connect();
