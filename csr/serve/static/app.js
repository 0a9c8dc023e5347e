// The page: one session at a time, its state as the server last sent it.

import { ApiError, getBlob, getJson, post, putJson, remove, setToken, takeTokenFromAddress, upload } from "./api.js";
import { drawOverlay, drawPicture, drawRamp, framePeak } from "./heat.js";
import { ConceptList, DiagnosisList, fillBoxes, fillNotes, fillTable, make, percentText, signed } from "./panels.js";
import { Stage } from "./stage.js";

const SESSION = "csr-session";
const THEME = "csr-theme";
const SHOWN_PROTOTYPES = 8;
const SHOWN_REGIONS = 5;
const at = (id) => document.getElementById(id);

let model = null;
let connected = null; // a promise: the model is known, or the page shows why not
let state = null;
let target = 0; // diagnosis that contributions are shown for
let picked = 0; // concept
let prototype = null; // of that concept; none: its best one
let maps = new Map(); // "concept.prototype" -> values under the regions in force
let mapsOf = ""; // which regions those are
let stage = null;
let diagnoses = null;
let concepts = null;
let running = false; // a request that changes the state
const waiting = []; // what comes after it: changes of the edits then in force, or names of actions
const regionPictures = new Map();

// --- messages

function announce(text) {
  at("live").textContent = text;
}

function showProblem(error) {
  at("problem-text").textContent = error.message;
  at("problem").hidden = false;
}

function hideProblem() {
  at("problem").hidden = true;
}

async function attempt(call) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForToken();
    else showProblem(error);
    if (error.status === 404 && state) forget();
    return null;
  }
}

function askForToken() {
  const dialog = at("token-dialog");
  at("token-problem").textContent = sessionStorage.getItem("csr-token") ? "That token is not correct." : "";
  if (!dialog.open) dialog.showModal();
}

// --- opening and closing

async function start() {
  takeTokenFromAddress();
  wire();
  connected = connect();
  await connected;
}

async function connect() {
  model = await attempt(() => getJson("model"));
  if (!model) return;
  hideProblem();
  at("model-name").textContent = model.name;
  at("model-name").title = `sha256 ${model.sha256}`;
  at("version").textContent = `Model ${model.sha256.slice(0, 12)}.`;
  at("limits").textContent = `up to ${+(model.max_bytes / 2 ** 20).toFixed(1)} MiB and ${+(model.max_pixels / 1e6).toFixed(1)} million pixels`;
  at("replacements").hidden = model.replacements.length < 2;
  drawRamp(at("ramp"), model.palette);
  diagnoses = new DiagnosisList(at("diagnoses"), { onPick: pickTarget });
  concepts = new ConceptList(
    { active: at("concepts"), others: at("other-concepts"), summary: at("others-title"), details: at("others") },
    { onPick: (k) => pickConcept(k), onDecide: decide, hasAtlas: model.has_atlas },
  );
  await resume();
}

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
    showProblem(new Error(`${file.name} is larger than ${+(model.max_bytes / 2 ** 20).toFixed(1)} MiB.`));
    return;
  }
  document.body.classList.add("busy");
  announce("Reading the image");
  const old = state?.session;
  const opened = await attempt(() => upload(file));
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
  state = opened;
  sessionStorage.setItem(SESSION, state.session);
  maps = new Map();
  mapsOf = "";
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
  at("scale-low").textContent = state.map.low.toFixed(2);
  at("scale-high").textContent = state.map.high.toFixed(2);
  at("start").hidden = true;
  at("work").hidden = false;
  document.body.classList.add("open");
  const byBefore = indices(state.diagnoses, (d) => d.before.probability);
  const byConcept = indices(state.concepts, (c) => c.probability);
  target = byBefore[0];
  picked = byConcept.find((k) => state.concepts[k].active && state.concepts[k].best_prototype !== null) ?? strongest();
  prototype = null;
  diagnoses.fill(state.diagnoses, byBefore);
  concepts.fill(state.concepts, byConcept);
  setTool("look");
  render();
  await showEvidence();
}

function indices(list, value) {
  return list.map((_, i) => i).sort((a, b) => value(list[b]) - value(list[a]));
}

function strongest() {
  return indices(state.concepts, (c) => Math.max(...c.contribution.map(Math.abs)))[0];
}

function forget() {
  state = null;
  sessionStorage.removeItem(SESSION);
  URL.revokeObjectURL(at("image").src);
  at("image").removeAttribute("src");
  at("work").hidden = true;
  at("start").hidden = false;
  document.body.classList.remove("open");
  for (const id of ["undo", "redo", "reset", "download", "close"]) at(id).disabled = true;
  at("drop").focus();
}

const path = () => `sessions/${encodeURIComponent(state.session)}`;

// --- edits

async function run(next) {
  // one request at a time, so that a change starts from what the one before left; those that came meanwhile go together
  waiting.push(next);
  if (running) return;
  running = true;
  try {
    while (waiting.length && state) {
      const began = performance.now();
      const todo = waiting.shift();
      const answer = await attempt(() => (typeof todo === "string" ? post(`${path()}/${todo}`) : putJson(`${path()}/edits`, changed(todo))));
      if (!answer || answer.session !== state?.session) {
        if (state) render(); // as the server last sent it, whatever the controls show
        return;
      }
      state = answer;
      hideProblem();
      render();
      at("timing").textContent = `updated in ${Math.max(1, Math.round(performance.now() - began))} ms`;
      announce(summary());
    }
  } finally {
    running = false;
    waiting.length = 0;
  }
  await showEvidence();
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
  const warning = state.safety.warn ? " Warning: the regions contradict the maps." : "";
  return `${d.name} ${percentText(d.probability)}${Math.abs(moved) < 0.0005 ? "" : `, ${signed(100 * moved, 1)} points`}.${warning}`;
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
  target = t;
  render();
  showEvidence();
}

function pickConcept(k, m = null) {
  picked = k;
  prototype = m;
  render();
  showEvidence();
}

const place = () => `${picked}.${prototype ?? state.concepts[picked].best_prototype}`;

function render() {
  diagnoses.update(state.diagnoses, target);
  concepts.update(state, { target, picked });
  fillNotes(at("notes"), state, model);
  fillBoxes(at("boxes"), state, { onRemove: removeBox, otherwise: at("stage"), onPoint: (i) => stage.show({ highlighted: i }) });
  const num = state.edits.boxes.length;
  at("num-boxes").textContent = num ? String(num) : "none: draw one on the image";
  at("alpha").value = String(Math.round(100 * state.edits.alpha));
  at("alpha").disabled = !num;
  at("alpha-value").textContent = state.edits.alpha.toFixed(2);
  for (const input of document.getElementsByName("replacement")) input.checked = input.value === state.edits.replacement;
  at("undo").disabled = !state.can_undo;
  at("redo").disabled = !state.can_redo;
  at("reset").disabled = !num && !Object.keys(state.edits.decisions).length && state.edits.alpha === model.default_alpha
    && state.edits.replacement === model.default_replacement;
  at("download").disabled = false;
  at("close").disabled = false;
  const shown = state.diagnoses[target];
  const sum = state.concepts.reduce((total, c) => total + c.contribution[target], 0);
  at("target-name").textContent = shown.name;
  at("sum").textContent = `All concepts ${signed(sum)}, bias ${signed(shown.bias)}: logit ${signed(shown.logit)}`;
  stage.show({ boxes: state.edits.boxes });
  paint();
}

function paint() {
  const { low, high } = state.map;
  const opacity = Number(at("opacity").value) / 100;
  const values = maps.get(place());
  const k = state.concepts[picked];
  if (values) {
    drawOverlay(at("heat"), state.map, { values, low, high, palette: model.palette, opacity });
    drawPicture(at("evidence"), at("image"), state.map, { values, low, high, palette: model.palette, opacity: 0.55 });
    const highest = values.indexOf(Math.max(...values));
    const peak = prototype === null && k.peak ? k.peak
      : [((highest % state.map.width) + 0.5) / state.map.width, (Math.floor(highest / state.map.width) + 0.5) / state.map.height];
    framePeak(at("evidence"), state.map, peak);
    stage.show({ peak, cell: [1 / state.map.width, 1 / state.map.height] });
  } else {
    at("heat").getContext("2d").clearRect(0, 0, at("heat").width, at("heat").height);
    stage.show({ peak: null });
  }
  at("shown-map").textContent = k.best_prototype === null ? `${k.name}: all of its prototypes were dropped`
    : `Map of ${k.name}, prototype ${prototype ?? k.best_prototype}; frame: highest cell`;
}

function paintThumbs() {
  const { low, high } = state.map;
  state.concepts.forEach((concept, k) => {
    const values = maps.get(`${k}.${concept.best_prototype}`);
    if (!values) return;
    const canvas = concepts.rows[k].thumb;
    drawPicture(canvas, at("image"), state.map, { values, low, high, palette: model.palette, opacity: 0.55 });
    framePeak(canvas, state.map, concept.peak);
  });
}

async function showEvidence() {
  if (!state) return;
  const shown = state;
  const now = JSON.stringify([shown.session, shown.edits.boxes, shown.edits.boxes.length ? shown.edits.alpha : 0]);
  const all = shown.concepts.flatMap((c, k) => (c.best_prototype === null ? [] : [`${k}.${c.best_prototype}`]));
  if (prototype !== null) all.push(place());
  const known = now === mapsOf ? maps : new Map();
  const missing = [...new Set(all)].filter((one) => !known.has(one)).slice(0, 256);
  const query = missing.map((one) => `of=${one}`).join("&");
  const k = picked;
  const [added, detail] = await Promise.all([
    missing.length ? attempt(() => getJson(`${path()}/maps?${query}`)) : { maps: [] },
    attempt(() => getJson(`${path()}/concepts/${k}`)),
  ]);
  if (!added || !detail || state !== shown || picked !== k) return; // what is shown has changed meanwhile
  for (const one of added.maps) known.set(`${one.concept}.${one.prototype}`, one.values);
  maps = known;
  mapsOf = now;
  paint();
  paintThumbs();
  showDetail(detail);
  await Promise.all([showRegions(), showNearThumbs()]);
}

function showDetail(detail) {
  const concept = state.concepts[picked];
  const current = prototype ?? concept.best_prototype;
  const verdict = concept.active ? "present" : "below its threshold";
  at("detail-title").textContent = `Evidence: ${concept.name}`;
  at("detail-facts").textContent = `${percentText(concept.probability)}, ${verdict} (threshold ${percentText(concept.threshold)})`;
  at("evidence").setAttribute("aria-label", `The image with the map of ${concept.name}, prototype ${current}`);
  const highest = Math.max(...(maps.get(place()) ?? [0]));
  at("evidence-caption").textContent = current === null ? "no prototypes" : `This image: prototype ${current}, cosine ${highest.toFixed(3)}`;
  const name = state.diagnoses[target].name;
  const rows = indices(detail.prototypes, (one) => Math.abs(one.contribution[target])).map((i) => detail.prototypes[i]);
  const kept = rows.slice(0, SHOWN_PROTOTYPES);
  if (!kept.some((one) => one.prototype === current)) kept.push(...rows.filter((one) => one.prototype === current));
  const focused = at("prototypes").contains(document.activeElement) ? document.activeElement.textContent : null;
  fillTable(at("prototypes"), ["prototype", "score used", `contribution to ${name}`], kept.map((one) => {
    const button = make("button", { type: "button", cls: "link", text: String(one.prototype), "aria-pressed": String(one.prototype === current),
      "aria-label": `Show prototype ${one.prototype}` });
    button.addEventListener("click", () => {
      pickConcept(picked, one.prototype === state.concepts[picked].best_prototype ? null : one.prototype);
    });
    return { cls: one.prototype === current ? "current" : "", cells: [button, one.score.toFixed(3), signed(one.contribution[target], 3)] };
  }));
  if (focused !== null) [...at("prototypes").querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  at("prototypes").caption.textContent = rows.length > kept.length ? `Prototypes: ${kept.length} of ${rows.length}, largest contribution first` : "Prototypes, largest contribution first";
  const head = ["diagnosis", "now", "without edits", ...(detail.if_rejected ? ["if rejected"] : [])];
  fillTable(at("shares"), head, state.diagnoses.map((d, t) => ({
    cls: t === target ? "current" : "",
    cells: [d.name, signed(concept.contribution[t], 3), signed(concept.contribution_before[t], 3),
      ...(detail.if_rejected ? [signed(detail.if_rejected[t], 3)] : [])],
  })));
}

async function regionPicture(k, m, rank) {
  const key = `${k}/${m}/${rank}`;
  if (!regionPictures.has(key)) {
    regionPictures.set(key, getBlob(`regions/${key}`).then((blob) => URL.createObjectURL(blob)).catch(() => null));
  }
  return regionPictures.get(key);
}

async function showRegions() {
  const area = at("looks-like");
  if (!model.has_atlas) {
    area.replaceChildren(make("p", { cls: "quiet", text: "To see the training regions behind the prototypes, start the server with --atlas DIR." }));
    return;
  }
  const [k, m] = [picked, prototype ?? state.concepts[picked].best_prototype];
  if (m === null) {
    area.replaceChildren();
    return;
  }
  const near = await attempt(() => getJson(`regions/${k}/${m}`));
  if (!near || !state || picked !== k || (prototype ?? state.concepts[k].best_prototype) !== m) return;
  const figures = near.slice(0, SHOWN_REGIONS).map((one, rank) => {
    const image = make("img", { alt: `Training region ${rank + 1} behind prototype ${m}` });
    const caption = make("figcaption", {}, make("b", { text: rank ? `Training ${rank + 1}` : "Looks like" }), ` cosine ${one.similarity.toFixed(3)}`,
      make("span", { cls: "file", text: one.image }));
    const figure = make("figure", {}, image, caption);
    regionPicture(k, m, rank).then((address) => {
      if (address) image.src = address;
      else image.replaceWith(make("span", { cls: "gone", text: "The file is missing or cannot be read." }));
    });
    return figure;
  });
  area.replaceChildren(...(figures.length ? figures : [make("p", { cls: "quiet", text: "The atlas has no training region for this prototype." })]));
}

async function showNearThumbs() {
  if (!model.has_atlas || !state) return;
  const visible = state.concepts.flatMap((c, k) => (c.best_prototype !== null && (c.active || at("others").open) ? [[k, c.best_prototype]] : []));
  for (const [k, m] of visible) {
    const address = await regionPicture(k, m, 0);
    if (!state || state.concepts[k].best_prototype !== m) return;
    const { near } = concepts.rows[k];
    near.hidden = !address;
    if (address && near.src !== address) near.src = address;
    near.alt = `Training region of prototype ${m} of ${state.concepts[k].name}`;
  }
}

async function download() {
  const blob = await attempt(() => getBlob(`${path()}/record`));
  if (!blob) return;
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: `csr-session-${state.image.sha256.slice(0, 12)}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// --- wiring

function wire() {
  stage = new Stage(at("stage"), { onBox: addBox, onTool: setTool, announce });
  at("open").addEventListener("click", () => at("file").click());
  at("drop").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    at("file").value = ""; // the same file may be opened again
    if (file) open(file);
  });
  at("undo").addEventListener("click", () => run("undo"));
  at("redo").addEventListener("click", () => run("redo"));
  at("reset").addEventListener("click", () => run("reset"));
  at("download").addEventListener("click", download);
  at("close").addEventListener("click", () => {
    remove(path()).catch(() => {});
    forget();
  });
  at("problem-close").addEventListener("click", hideProblem);
  at("others").addEventListener("toggle", () => showNearThumbs());
  for (const input of document.getElementsByName("tool")) input.addEventListener("change", () => setTool(input.value));
  for (const input of document.getElementsByName("replacement")) {
    input.addEventListener("change", () => run((edits) => { edits.replacement = input.value; }));
  }
  at("alpha").addEventListener("input", () => { at("alpha-value").textContent = alpha().toFixed(2); });
  at("alpha").addEventListener("change", () => run((edits) => { edits.alpha = alpha(); })); // one step, not one a pixel
  at("opacity").addEventListener("input", () => state && paint());
  for (const id of ["brightness", "contrast"]) at(id).addEventListener("input", filter);
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(at("token").value);
    at("token").value = "";
    at("token-dialog").close();
    connected = connect();
  });
  document.addEventListener("keydown", shortcut);
  wireDrop();
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

function wireDrop() {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) open(event.clipboardData.files[0]);
  });
}

function wireTheme() {
  const names = { auto: "system", light: "light", dark: "dark" };
  const signs = { auto: "\u25d0", light: "\u2600", dark: "\u263e" };
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    at("theme").textContent = signs[theme];
    at("theme").title = `Colours: ${names[theme]}`;
    at("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
  };
  set(localStorage.getItem(THEME) in names ? localStorage.getItem(THEME) : "auto");
  at("theme").addEventListener("click", () => {
    const order = Object.keys(names);
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    localStorage.setItem(THEME, next);
    set(next);
  });
}

start();
