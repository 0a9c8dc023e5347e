// Records replayed: those that this tab keeps, on an image that is opened again, and those in files.

import { postJson } from "./api.js";
import { ask } from "./ask.js";
import { saveText } from "./download.js";
import * as kept from "./kept.js";
import { attempt, hideProblem, sentence, showInfo, showProblem } from "./messages.js";
import { make } from "./panels.js";
import { at, state } from "./view.js";

const MAX_RECORD = 2 ** 26; // bytes of a file that is read as a record

// the steps that this tab keeps of an image that was opened again; the state after them
export async function restore(entry, opened) {
  const record = kept.get(entry.sha256);
  if (!kept.hasWork(record) || record.session === opened.session) return opened;
  const number = steps(record.steps.length - 1);
  const wanted = entry.why || record.session === null || await ask({
    title: `Restore the edits of ${entry.name}?`,
    text: `This tab keeps a record of this image with ${number}, the last of ${record.steps.at(-1).time}.`,
    yes: "Restore them", no: "Start without them",
  });
  if (!wanted) {
    kept.drop(entry.sha256);
    return opened;
  }
  const answer = await replay(record, opened);
  if (!answer) return opened;
  if (answer.state.restored) showInfo(`${entry.why ? `${sentence(entry.why)} ` : ""}${replayed(answer)}`);
  entry.why = null;
  return answer.state;
}

async function replay(record, opened) {
  const target = `sessions/${encodeURIComponent(opened.session)}/replay`;
  const answer = await attempt(() => postJson(target, kept.brief(record), { revision: opened.revision }), (error) => {
    showProblem(new Error(`${sentence(error.message)} The record was downloaded instead.`));
    saveKept(record); // what cannot be replayed is not lost either
  });
  if (answer) kept.adopt(record, answer.state.session, { saved: record.session === null });
  return answer;
}

export const steps = (num) => (num === 1 ? "1 step" : `${num} steps`);

function replayed({ steps: num, same, largest_difference: difference }) {
  const words = same ? "every probability is as it was" : `but a probability differs by ${(100 * difference).toFixed(1)} `
    + "points: the record was changed, or computed on another kind of device";
  return `The image was opened again and ${steps(num - 1)} replayed: ${words}.`;
}

// --- records from files

// a file that was chosen or dropped: on its image where that is in the list, else it waits for it
export async function replayFile(file, { list, visit, show, explain }) {
  hideProblem();
  const refuse = (reason) => showProblem(new Error(`${file.name}: ${reason}`));
  const record = await read(file);
  if (!record) return refuse("no record of csr serve that can be read");
  const { sha256 } = record.image;
  const entry = list.entries.find((one) => one.sha256 === sha256);
  if (kept.isUnsaved(kept.get(sha256)) && !await ask({
    title: `Replace the edits of ${entry?.name ?? record.image.name}?`,
    text: "They are in no downloaded record: the record that you replay takes their place.",
    yes: "Replace them", no: "Keep them",
  })) return null;
  if (!entry) return expect(record, list);
  if (!entry.session || state?.session !== entry.session) await visit(entry);
  if (state?.image.sha256 !== sha256) { // its file is not at hand
    expect(record, list);
    if (!state && list.current === entry) explain(entry);
    return null;
  }
  const target = `sessions/${encodeURIComponent(state.session)}/replay`;
  const answer = await attempt(() => postJson(target, record, { revision: state.revision }), (error) => refuse(error.message));
  if (!answer) return null;
  kept.adopt(record, answer.state.session, { saved: true });
  if (state?.session !== answer.state.session) return null; // another image is on the page
  await show(answer.state);
  return showInfo(replayed(answer));
}

async function read(file) {
  if (file.size > MAX_RECORD) return null;
  try {
    const record = kept.brief({ ...JSON.parse(await file.text()), typed: null });
    return typeof record.image.sha256 === "string" && typeof record.image.name === "string" ? record : null;
  } catch {
    return null;
  }
}

// in place of what is kept of its image: that was saved, or the reader agreed
function expect(record, list) {
  const { name, sha256 } = record.image;
  const open = state ? `, not of ${state.image.name}, which is open` : "";
  kept.adopt(record, null, { saved: true });
  showInfo(`The record is of the image ${name} (sha256 ${String(sha256).slice(0, 12)})${open}: open that image, and its `
    + `${steps(record.steps.length - 1)} will be replayed.`);
  showKept(list);
}

// on the start screen: what is kept of images that are not open
export function showKept(list) {
  const open = new Set(list.entries.map((one) => one.sha256));
  const records = kept.all().filter((record) => kept.hasWork(record) && !open.has(record.image.sha256));
  at("kept").hidden = !records.length;
  at("kept-rows").replaceChildren(...records.map((record) => {
    const save = make("button", { type: "button", text: "Download", "aria-label": `Download the record of ${record.image.name}` });
    const drop = make("button", { type: "button", text: "Discard", "aria-label": `Discard the record of ${record.image.name}` });
    save.addEventListener("click", () => saveKept(record));
    drop.addEventListener("click", () => {
      kept.drop(record.image.sha256);
      showKept(list);
      (at("kept-rows").querySelector("button") ?? at("drop")).focus();
    });
    return make("li", {}, make("span", { text: `${record.image.name}: ${steps(record.steps.length - 1)}` }), save, drop);
  }));
}

export function saveKept(record) {
  saveText(`csr-session-${record.image.sha256.slice(0, 12)}.json`, JSON.stringify(kept.brief(record)));
  kept.setSaved(record.image.sha256, { asKept: true });
}
