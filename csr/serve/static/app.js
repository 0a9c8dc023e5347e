// The page: one session at a time, its state as the server last sent it.

import { ApiError, getBlob, getJson, post, putJson, remove, setToken, takeTokenFromAddress, upload } from "./api.js";
import { download } from "./download.js";
import { Evidence } from "./evidence.js";
import { wireFiles } from "./files.js";
import { drawRamp } from "./heat.js";
import { announce, attempt, hideProblem, onGone, refuse, showProblem } from "./messages.js";
import { ConceptList, DiagnosisList, fillBoxes, fillNotes, probabilityText, signed } from "./panels.js";
import { Stage } from "./stage.js";
import { wireTheme } from "./theme.js";
import { at, indices, model, path, picked, set, state, target } from "./view.js";

const SESSION = "csr-session";

let connected = null; // a promise: the model is known, or the page shows why not
let stage = null;
let diagnoses = null;
let concepts = null;
let evidence = null;
let running = false; // a request that changes the state
const waiting = []; // what comes after it: changes of the edits then in force, or names of actions

// --- opening and closing

async function connect() {
  set({ model: await attempt(() => getJson("model")) });
  if (!model) return;
  hideProblem();
  at("model-name").textContent = model.name;
  at("model-name").title = `sha256 ${model.sha256}`;
  at("version").textContent = `Model ${model.sha256.slice(0, 12)}.`;
  at("limits").textContent = `up to ${maxMib()} MiB and ${+(model.max_pixels / 1e6).toFixed(1)} million pixels`;
  at("replacements").hidden = model.replacements.length < 2;
  at("scores-notice").textContent = model.notices.join(" ");
  at("no-medians").hidden = model.contributions_from !== "zero";
  drawRamp(at("ramp"), model.palette);
  diagnoses = new DiagnosisList(at("diagnoses"), { onPick: pickTarget });
  concepts = new ConceptList(
    { active: at("concepts"), others: at("other-concepts"), summary: at("others-title"), details: at("others") },
    { onPick: (k) => pickConcept(k), onDecide: decide, hasAtlas: model.has_atlas },
  );
  evidence = new Evidence({ stage, rows: () => concepts.rows, onPick: (m) => pickConcept(picked, m) });
  await resume();
}

const maxMib = () => +(model.max_bytes / 2 ** 20).toFixed(1);

async function resume() {
  const id = sessionStorage.getItem(SESSION);
  if (!id) return;
  try {
    await show(await getJson(`sessions/${encodeURIComponent(id)}`));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    sessionStorage.removeItem(SESSION);
  }
}

async function open(file) {
  if (!file) return;
  if (!model) await connected;
  if (!model) return; // the page shows why
  hideProblem();
  if (file.size > model.max_bytes) {
    refuse(file.name, new Error(`is larger than ${maxMib()} MiB.`), state?.image.name);
    return;
  }
  document.body.classList.add("busy");
  announce("Reading the image");
  const old = state?.session;
  const opened = await attempt(() => upload(file), (error) => refuse(file.name, error, state?.image.name));
  document.body.classList.remove("busy");
  if (!opened) {
    announce("");
    return;
  }
  if (old) remove(`sessions/${old}`).catch(() => {});
  await show(opened);
  announce(`Image opened. ${summary()}`);
}

async function show(opened) {
  set({ state: opened });
  sessionStorage.setItem(SESSION, state.session);
  evidence.clear();
  const blob = await attempt(() => getBlob(`${path()}/image`));
  if (!blob) return;
  const image = at("image");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  await image.decode();
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
  await evidence.show();
}

function forget() {
  set({ state: null });
  sessionStorage.removeItem(SESSION);
  URL.revokeObjectURL(at("image").src);
  at("image").removeAttribute("src");
  at("work").hidden = true;
  at("start").hidden = false;
  document.body.classList.remove("open");
  for (const id of ["undo", "redo", "reset", "download", "close"]) at(id).disabled = true;
  at("drop").focus();
}

// --- edits

async function run(next) {
  // one request at a time, so that a change starts from the state before it; changes that came meanwhile go together
  waiting.push(next);
  if (running) return;
  running = true;
  try {
    while (waiting.length && state) {
      const began = performance.now();
      const todo = waiting.shift();
      const answer = await attempt(() => (
        typeof todo === "string" ? post(`${path()}/${todo}`) : putJson(`${path()}/edits`, changed(todo))));
      if (!answer || answer.session !== state?.session) {
        if (state) render(); // as the server last sent it, whatever the controls show
        return;
      }
      set({ state: answer });
      hideProblem();
      render();
      at("timing").textContent = `updated in ${Math.max(1, Math.round(performance.now() - began))} ms`;
      announce(summary());
    }
  } finally {
    running = false;
    waiting.length = 0;
  }
  await evidence.show();
}

function changed(first) {
  const edits = structuredClone(state.edits);
  first(edits);
  while (waiting.length && typeof waiting[0] !== "string") waiting.shift()(edits);
  return edits;
}

function summary() {
  const first = indices(state.diagnoses, (d) => d.probability)[0];
  const d = state.diagnoses[first];
  const moved = d.probability - d.before.probability;
  const warning = state.safety.warn ? " Warning: the regions change it far." : "";
  const change = Math.abs(moved) < 0.0005 ? "" : `, ${signed(100 * moved, 1)} points`;
  return `${d.name} ${probabilityText(d)}${change}.${warning}`;
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

function removeBox(i) {
  const gone = JSON.stringify(state.edits.boxes[i]); // its number may change meanwhile
  run((edits) => {
    const at = edits.boxes.findIndex((box) => JSON.stringify(box) === gone);
    if (at >= 0) edits.boxes.splice(at, 1);
  });
}

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
  fillNotes(at("notes"), state, model);
  const highlight = (i) => stage.show({ highlighted: i });
  fillBoxes(at("boxes"), state, { onRemove: removeBox, otherwise: at("stage"), onPoint: highlight });
  const num = state.edits.boxes.length;
  at("num-boxes").textContent = num ? String(num) : "none: draw one on the image";
  at("alpha").value = String(Math.round(100 * state.edits.alpha));
  at("alpha").disabled = !num;
  at("alpha-value").textContent = state.edits.alpha.toFixed(2);
  const { replacement } = state.edits;
  for (const input of document.getElementsByName("replacement")) input.checked = input.value === replacement;
  at("undo").disabled = !state.can_undo;
  at("redo").disabled = !state.can_redo;
  at("reset").disabled = !num && !Object.keys(state.edits.decisions).length
    && state.edits.alpha === model.default_alpha && replacement === model.default_replacement;
  at("download").disabled = false;
  at("close").disabled = false;
  const shown = state.diagnoses[target];
  const sum = state.concepts.reduce((total, c) => total + c.contribution[target], 0);
  at("target-name").textContent = shown.name;
  const from = model.contributions_from === "zero" ? "bias" : "an image without findings";
  at("sum").textContent = `${from} ${signed(shown.base)}, all concepts ${signed(sum)}: logit ${signed(shown.logit)}`;
  stage.show({ boxes: state.edits.boxes });
  evidence.paint();
}

// --- wiring

function wire() {
  onGone(() => state && forget());
  stage = new Stage(at("stage"), { onBox: addBox, onTool: setTool, announce });
  at("undo").addEventListener("click", () => run("undo"));
  at("redo").addEventListener("click", () => run("redo"));
  at("reset").addEventListener("click", () => run("reset"));
  at("download").addEventListener("click", download);
  at("close").addEventListener("click", () => {
    remove(path()).catch(() => {});
    forget();
  });
  at("problem-close").addEventListener("click", hideProblem);
  at("others").addEventListener("toggle", () => evidence?.showNearThumbs());
  for (const input of document.getElementsByName("tool")) {
    input.addEventListener("change", () => setTool(input.value));
  }
  for (const input of document.getElementsByName("replacement")) {
    input.addEventListener("change", () => run((edits) => { edits.replacement = input.value; }));
  }
  at("alpha").addEventListener("input", () => { at("alpha-value").textContent = alpha().toFixed(2); });
  // when the slider is released: one step, not one a pixel
  at("alpha").addEventListener("change", () => run((edits) => { edits.alpha = alpha(); }));
  at("opacity").addEventListener("input", () => state && evidence.paint());
  for (const id of ["brightness", "contrast"]) at(id).addEventListener("input", filter);
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(at("token").value);
    at("token").value = "";
    at("token-dialog").close();
    connected = connect();
  });
  document.addEventListener("keydown", shortcut);
  wireFiles(open);
  wireTheme();
}

function filter() {
  at("image").style.filter = `brightness(${at("brightness").value}%) contrast(${at("contrast").value}%)`;
}

function shortcut(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || !state || at("token-dialog").open) return;
  const key = event.key.toLowerCase();
  const action = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
  if (!action) return;
  event.preventDefault();
  run(action);
}

takeTokenFromAddress();
wire();
connected = connect();
