// Records that this tab keeps: edits, notes and hashes of every image, never its pixels. They outlive a reload and a
// session that the server forgot, and end with the tab.

const PREFIX = "csr-kept:";
const memory = new Map(); // by hash of the image; the same is in sessionStorage as far as it has room
let full = () => {};

export function onFull(callback) {
  full = callback;
}

function store(record) {
  memory.set(record.image.sha256, record);
  try {
    sessionStorage.setItem(PREFIX + record.image.sha256, JSON.stringify(record));
  } catch {
    full(); // the quota: this page still has it, a reload does not
  }
}

export function get(sha256) {
  if (!memory.has(sha256)) {
    const text = sessionStorage.getItem(PREFIX + sha256);
    if (text) memory.set(sha256, JSON.parse(text));
  }
  return memory.get(sha256) ?? null;
}

export function all() {
  const stored = Object.keys(sessionStorage).filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length));
  return [...new Set([...memory.keys(), ...stored])].map(get);
}

export function drop(sha256) {
  memory.delete(sha256);
  sessionStorage.removeItem(PREFIX + sha256);
}

const notesOf = ({ notes, typed }) => typed ?? notes ?? { reader: "", comment: "", conclusion: "" };

// what a replay needs of a record: steps with their edits and probabilities; and what was typed last
export function brief(record) {
  const { format, format_version, model, image, steps } = record;
  return {
    format, format_version, model, image, notes: notesOf(record),
    steps: steps.map(({ time, action, edits, result }) => ({ time, action, edits, result: probabilities(result) })),
  };
}

const probabilities = ({ diagnoses }) => ({ diagnoses: diagnoses.map(({ name, probability }) => ({ name, probability })) });

// a whole record in place of what was kept of its image; session: that it is of, null: of none yet
export function adopt(record, session, { saved = false } = {}) {
  const one = { ...brief(record), typed: session && typed(record.image.sha256, session), session, saved: null };
  if (saved) one.saved = mark(one);
  store(one);
  return one;
}

// add the last step of a state; false where steps are missing in between, then the whole record is needed
export function keep(state, model) {
  const before = get(state.image.sha256);
  const known = before?.session === state.session ? before : null;
  const length = known?.steps.length ?? 0;
  if (length !== state.num_steps && length + 1 !== state.num_steps) return false;
  const steps = known?.steps ?? [];
  const step = { time: state.last_time, action: state.last_action, edits: state.edits, result: probabilities(state) };
  if (length < state.num_steps) steps.push(step);
  else if (steps.at(-1)?.time !== step.time) return false;
  store({
    format: "csr-session", format_version: 3, model: { name: model.name, sha256: model.sha256 }, image: state.image,
    notes: state.notes, typed: known?.typed ?? null, steps, session: state.session, saved: known?.saved ?? null,
  });
  return true;
}

const mark = ({ steps, notes: { reader, comment, conclusion } }) => (
  `${steps.length} ${JSON.stringify([reader, comment, conclusion])}`);
const markOf = (record) => mark({ ...record, notes: notesOf(record) });

// texts that could not be put in the server's record; null: all are in it
export function setTyped(sha256, typed) {
  const record = get(sha256);
  if (record && (typed || record.typed)) store({ ...record, typed });
}

// such texts; of a session where one is given, else of whichever it was
export function typed(sha256, session = null) {
  const record = get(sha256);
  return record && (session === null || record.session === session) ? record.typed ?? null : null;
}

// downloaded as the server has it, or as it is kept here
export function setSaved(sha256, { asKept = false } = {}) {
  const record = get(sha256);
  if (record) store({ ...record, saved: asKept ? markOf(record) : mark(record) });
}

// edits or texts, which would be missed
export function hasWork(record) {
  const { comment, conclusion } = record ? notesOf(record) : {};
  return Boolean(record) && (record.steps.length > 1 || Boolean(comment || conclusion));
}
export const isUnsaved = (record) => hasWork(record) && record.saved !== markOf(record);
export const isSaved = (record) => Boolean(record) && record.saved === markOf(record);
