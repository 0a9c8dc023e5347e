// Images opened, switched, closed, lost and restored.

import { ApiError, getJson, remove, upload } from "./api.js";
import { ask } from "./ask.js";
import * as kept from "./kept.js";
import { WorkList } from "./list.js";
import { announce, attempt, hideInfo, hideProblem, isGone, sentence, showInfo, showProblem } from "./messages.js";
import { hasTyped, keepTyped, send, unsent } from "./notes.js";
import { replayFile, restore, saveKept, showKept, steps } from "./restoring.js";
import { at, model, state } from "./view.js";

const SESSION = "csr-session";
const PASSING = [0, 408, 503]; // the server's trouble and not the file's: trying again helps

let page = null;
let turn = 0; // of the visits: an answer that comes late is not shown
export let list = null;

// page: connected() -> whether the model is known, settled() when no change is on its way, show(state), leave()
export function wireOpening(given) {
  page = given;
  list = new WorkList({ onPick: visit });
  kept.onFull(() => showInfo("The browser's storage is full: edits of this image do not outlive a reload. Download the record."));
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("state-choose").addEventListener("click", () => at("file").click());
  at("state-save").addEventListener("click", () => {
    saveKept(kept.get(list.current.sha256));
    list.render();
  });
  addEventListener("keydown", (event) => {
    if (!event.altKey || event.ctrlKey || event.metaKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    step(event.key === "ArrowDown" ? 1 : -1);
  });
  addEventListener("beforeunload", (event) => {
    if (state && hasTyped()) keepTyped();
    if (list.hasUnsaved() || (state && hasTyped())) event.preventDefault();
  });
  showKept(list);
}

export async function resume() {
  const id = sessionStorage.getItem(SESSION);
  const entry = (id && list.of(id)) || list.entries.find((one) => one.session) || null;
  if (entry) await visit(entry);
}

const isRecord = (file) => /\.json$/i.test(file.name) || file.type === "application/json";

export async function openFiles(files) {
  if (!await page.connected()) return; // the page shows why
  hideProblem();
  hideInfo();
  const images = files.filter((file) => !isRecord(file));
  const lost = list.current && !list.current.session && !list.current.file && images.length === 1 ? list.current : null;
  if (images.length) {
    const { first, refused, limit } = list.add(images);
    const chosen = lost && first !== lost ? await chosenFor(lost, first) : first;
    if (chosen) await visit(chosen);
    if (refused) showProblem(new Error(`The list holds ${limit} images: ${refused} were not added. Close some first.`));
  }
  for (const file of files.filter(isRecord)) await replayFile(file, { list, visit, show: page.show, explain });
}

// a file under another name or date that was chosen in place of one whose image is lost
async function chosenFor(lost, entry) {
  const sha256 = await hashOf(entry.file);
  if (sha256 === null || sha256 !== lost.sha256) return entry;
  list.remove(entry);
  return Object.assign(lost, { file: entry.file });
}

async function hashOf(file) {
  if (!globalThis.crypto?.subtle) return null; // not over plain HTTP to another machine
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function step(by) {
  const entry = list.current ? list.beside(by) : list.entries[0];
  if (entry) visit(entry);
}

export async function visit(entry) {
  const mine = ++turn;
  await send();
  await page.settled();
  if (mine !== turn || !await mayLeave() || mine !== turn) return;
  list.select(entry);
  hideProblem();
  hideInfo();
  page.leave(); // no image stays under another one's name
  tell(`Reading ${entry.name}`, "");
  document.body.classList.add("busy");
  let opened = null;
  try {
    opened = entry.failed ? null : await obtain(entry);
  } finally {
    if (mine === turn) document.body.classList.remove("busy");
  }
  list.render();
  if (mine !== turn) return;
  if (opened) {
    at("state-panel").hidden = true;
    sessionStorage.setItem(SESSION, opened.session);
    await page.show(opened);
  } else {
    explain(entry);
  }
}

// what was typed into the open image is saved, or the reader goes on without that
async function mayLeave() {
  if (!state || !hasTyped()) return true;
  list.render();
  return !document.querySelector("dialog[open]") && ask({ // of a token, first
    title: `Leave ${state.image.name}?`,
    text: `What you wrote is not saved: ${at("problem-text").textContent} This tab keeps it, and tries again when you come back.`,
    yes: "Leave it", no: "Stay",
  });
}

// the state of an entry's session, opened again where the server has it no more; null: the page shows why not
async function obtain(entry) {
  if (entry.session) {
    try {
      const opened = await getJson(`sessions/${encodeURIComponent(entry.session)}`);
      return kept.get(entry.sha256)?.session === null ? restore(entry, opened) : opened; // a record waits for it
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!isGone(error)) {
        await attempt(() => { throw error; });
        return null;
      }
      Object.assign(entry, { session: null, why: error.message });
    }
  }
  return entry.file ? reopen(entry) : null;
}

async function reopen(entry) {
  const { file } = entry;
  if (file.size > model.max_bytes) return fail(entry, `is larger than ${+(model.max_bytes / 2 ** 20).toFixed(1)} MiB`);
  let opened;
  try {
    opened = await upload(file);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 || PASSING.includes(error.status)) await attempt(() => { throw error; });
    else fail(entry, error.message);
    return null;
  }
  const { sha256 } = opened.image;
  const twin = list.entries.find((one) => one !== entry && one.sha256 === sha256);
  if (twin) return twinOf(entry, twin, opened);
  if (entry.sha256 && entry.sha256 !== sha256) entry.why = null; // the file has changed: another image
  Object.assign(entry, { session: opened.session, sha256 });
  return restore(entry, opened);
}

function fail(entry, reason) {
  entry.failed = reason.startsWith(entry.name) ? reason.slice(entry.name.length).replace(/^:? */, "") : reason;
  showProblem(new Error(`${entry.name}: ${entry.failed}`));
  return null;
}

// the same image under two names has one session, so that no edits are made twice
async function twinOf(entry, twin, opened) {
  remove(`sessions/${opened.session}`).catch(() => {});
  list.remove(entry);
  Object.assign(twin, { file: twin.file ?? entry.file });
  list.select(twin);
  const answer = await obtain(twin);
  showInfo(`${entry.name} is the same image as ${twin.name}, which is in the list.`);
  return answer;
}

// --- lost and closed

// the server has the session no more: open it again where the file is at hand, else ask for it
export async function lost(error) {
  const entry = list.current;
  if (!entry || !state || entry.session !== state.session) return;
  Object.assign(entry, { session: null, why: error.message });
  const typed = unsent();
  if (typed) kept.setTyped(entry.sha256, typed); // to be replayed with the rest
  page.leave();
  await visit(entry);
}

export async function close() {
  const before = turn;
  await send();
  await page.settled();
  if (before !== turn) return; // the image was lost, and is opened again
  const entry = list.current;
  const record = kept.get(entry.sha256);
  if (kept.isUnsaved(record) && !await ask({
    title: `Close ${entry.name}?`, text: "Its edits and notes are in no downloaded record: they would be lost.",
    yes: "Close and lose them", no: "Keep it open",
  })) return;
  if (entry.session) remove(`sessions/${encodeURIComponent(entry.session)}`).catch(() => {});
  if (entry.sha256) kept.drop(entry.sha256);
  sessionStorage.removeItem(SESSION);
  turn += 1;
  const next = list.remove(entry);
  page.leave();
  at("state-panel").hidden = true;
  if (next) await visit(next);
  else at("drop").focus();
}

// after every change: the record of the open image is kept, the list says what became of it
export async function remember() {
  const shown = state;
  if (!kept.keep(shown, model)) {
    const record = await attempt(() => getJson(`sessions/${shown.session}/record`));
    if (record) kept.adopt(record, shown.session);
  }
  list.update(shown);
}

// --- what is said where no image is shown

function tell(title, text, { choose = false, save = false } = {}) {
  at("state-title").textContent = title;
  at("state-text").textContent = text;
  at("state-choose").hidden = !choose;
  at("state-save").hidden = !save;
  at("state-panel").hidden = false;
}

function explain(entry) {
  const record = entry.sha256 ? kept.get(entry.sha256) : null;
  const save = kept.hasWork(record);
  if (entry.failed) {
    tell(`${entry.name} could not be opened`, sentence(entry.failed));
  } else if (entry.file) {
    tell(`${entry.name} is not open`, "Choose its file again to try once more.", { choose: true, save });
  } else {
    const why = entry.why ? sentence(entry.why) : "After a reload the page has no files any more.";
    const keeps = save ? ` Kept, to be replayed on it: ${steps(record.steps.length - 1)}.` : "";
    tell(`${entry.name} is not open any more`, `${why} Choose its file again.${keeps}`, { choose: true, save });
  }
  at("close").disabled = false; // also what is not open can leave the list
  announce(`${at("state-title").textContent}. ${at("state-text").textContent}`);
  if (document.activeElement === document.body) at("state-panel").focus();
}
