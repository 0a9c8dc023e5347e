// What a change did, for those who hear the page: every diagnosis that moved, the furthest first.

import { probabilityText, signed } from "./panels.js";
import { indices, model } from "./view.js";

const LEAST = 0.0005; // of a probability: less rounds to nothing

export function whatMoved(before, after) {
  const moved = (t) => after.diagnoses[t].probability - before.diagnoses[t].probability;
  const turned = (t) => after.diagnoses[t].present !== before.diagnoses[t].present;
  const order = indices(after.diagnoses, (d) => Math.abs(moved(after.diagnoses.indexOf(d))));
  const changed = order.filter((t) => Math.abs(moved(t)) >= LEAST || turned(t));
  const left = order.length - changed.length;
  const rest = left ? `${left === 1 ? "1 other diagnosis" : `${left} other diagnoses`} as before.` : "";
  const warning = after.safety.warn ? " Warning: the regions change a probability far." : "";
  if (!changed.length) return `No diagnosis moved.${warning}`;
  return `${changed.map((t) => said(after.diagnoses[t], moved(t), turned(t))).join("; ")}. ${rest}${warning}`.trim();
}

function said(d, moved, turned) {
  const word = model.one_diagnosis ? "the likeliest" : "called";
  const turn = turned ? `, ${d.present ? "now" : "no longer"} ${word}` : "";
  return `${d.name} ${probabilityText(d)}, ${signed(100 * moved, 1)} points${turn}`;
}

export function wholeState(state) {
  const order = indices(state.diagnoses, (d) => d.probability);
  const called = order.filter((t) => state.diagnoses[t].present);
  const shown = called.length ? called : order.slice(0, 1);
  const words = shown.map((t) => `${state.diagnoses[t].name} ${probabilityText(state.diagnoses[t])}`).join(", ");
  const begin = model.one_diagnosis ? "The likeliest" : "Called";
  return `${called.length ? begin : "Nothing is called; the likeliest"}: ${words}.${state.doubt ? ` ${state.doubt}.` : ""}`;
}
