// What the reader writes: name, conclusion and comment. The name goes along to the next image of this tab. What could
// not be saved stays in the fields, is kept in this tab, and is sent again with the next change.

import * as kept from "./kept.js";
import { at, state } from "./view.js";

const READER = "csr-reader";
const PAUSE_MS = 800;
const FIELDS = ["reader", "conclusion", "comment"];
// what no text needs and the server refuses, such as the marks of direction that names come with from other programs
const UNREADABLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

let write = null; // puts notes in the record; a promise
let waiting = 0; // a timer: the typing has not paused yet
let session = null; // that the fields are of
let seen = null; // the server's notes, as they came last
let filled = null; // what was put in the fields: the rest was typed
let sent = null; // the last texts that were

const clean = (text) => text.replace(UNREADABLE, "").trim();
const written = () => Object.fromEntries(FIELDS.map((name) => [name, clean(at(name).value)]));
const differ = (a, b) => FIELDS.some((name) => a[name] !== b[name]);

export function wireNotes(onWrite) {
  write = onWrite;
  for (const name of FIELDS) {
    at(name).addEventListener("change", send);
    at(name).addEventListener("input", sendSoon);
  }
}

function sendSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(send, PAUSE_MS);
}

// before anything else happens to the image: what was typed belongs to it
export async function send() {
  clearTimeout(waiting);
  sessionStorage.setItem(READER, clean(at("reader").value));
  const shown = state;
  const notes = shown && unsent();
  if (shown && !notes) keepTyped();
  if (!notes) return;
  sent = notes;
  await write(notes);
  if (state?.session === shown.session) keepTyped(); // what failed, or was typed meanwhile
}

// after another change went through: what could not be saved before
export function sendAgain() {
  if (state && kept.typed(state.image.sha256) && unsent()) send();
}

export function keepTyped() {
  if (state.session !== session) return; // the fields still have the texts of the image before
  kept.setTyped(state.image.sha256, unsent());
}

// of another image, or of another tab's change; what was typed here stays
export function fillNotes({ session: now, notes, image }) {
  if (now === session) takeOver(notes);
  else fill(now, notes, kept.typed(image.sha256, now));
  seen = notes;
}

function fill(now, notes, typed) {
  session = now;
  sent = null;
  filled = { ...notes, reader: notes.reader || (sessionStorage.getItem(READER) ?? "") };
  for (const name of FIELDS) at(name).value = typed?.[name] ?? filled[name];
  if (typed) sendSoon();
}

// where both wrote, both are kept
function takeOver(notes) {
  const mine = written();
  for (const name of FIELDS) {
    if (notes[name] === seen[name]) continue;
    const isTyped = mine[name] !== filled[name];
    filled[name] = notes[name];
    if ([mine[name], sent?.[name]].includes(notes[name])) continue; // of this tab
    if (!isTyped) at(name).value = notes[name];
    else if (name !== "reader") at(name).value = [notes[name], mine[name]].filter(Boolean).join("\n");
  }
}

// what is in the fields and not yet in the record, such as the name from the image before; null: nothing
export function unsent() {
  return state.session === session && differ(written(), state.notes) ? written() : null;
}

// whether some of that was typed here: the name from the image before was not
export const hasTyped = () => Boolean(unsent()) && differ(written(), filled);
