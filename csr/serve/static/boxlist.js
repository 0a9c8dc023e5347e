// The rows of the regions: what each counts as, the concept that it is tied to, and buttons.

import { make } from "./panels.js";
import { model } from "./view.js";

const ALL = ""; // no concept has this name
let shown = ""; // what the rows show: they are made again when it changes

export function fillBoxes(list, state, { onRemove, onChange, onSelect, onPoint, otherwise, selected }) {
  const now = JSON.stringify([state.session, state.edits.boxes, state.safety.boxes, state.map]);
  if (now === shown) return;
  shown = now;
  const controls = () => [...list.querySelectorAll("button, select")];
  const focused = controls().indexOf(document.activeElement);
  const actions = { onRemove, onChange, onSelect, onPoint };
  list.replaceChildren(...state.edits.boxes.map((box, i) => boxRow(box, i, state, actions)));
  [...list.children].forEach((row, i) => row.classList.toggle("selected", i === selected));
  if (focused < 0) return;
  const left = controls();
  (left[Math.min(focused, left.length - 1)] ?? otherwise).focus();
}

function boxRow(box, i, state, { onRemove, onChange, onSelect, onPoint }) {
  const evidence = state.safety.boxes[i];
  const isPositive = box.kind === "positive";
  const tag = make("span", { cls: "tag", text: `${isPositive ? "+" : "\u2212"}${i + 1}` });
  const words = make("span", { cls: "words" },
    make("span", { text: isPositive ? "Look here" : "Not here" }),
    make("span", { cls: "quiet counts", text: countText(evidence.cells, state.map) }),
    make("span", { cls: "quiet", text: `highest map: ${evidence.concept}, similarity ${evidence.peak.toFixed(2)}` }));
  const row = make("li", { cls: `boxrow ${box.kind}` }, tag, words);
  if (evidence.contradicts) {
    const text = isPositive ? "no map is high here" : "a map is high here";
    row.append(make("span", { cls: "verdict", text: box.concept === null ? text : ownVerdict(isPositive) }));
  }
  const edit = make("button", { type: "button", "aria-label": `Move or resize region ${i + 1}`, text: "Edit" });
  const remove = make("button", { type: "button", cls: "icon", "aria-label": `Remove region ${i + 1}`, text: "\u2715" });
  row.append(conceptChoice(box, i, onChange), edit, remove);
  edit.addEventListener("click", () => onSelect(i));
  remove.addEventListener("click", () => onRemove(i));
  row.addEventListener("pointerenter", () => onPoint(i));
  row.addEventListener("pointerleave", () => onPoint(null));
  row.addEventListener("focusin", () => onPoint(i));
  row.addEventListener("focusout", () => onPoint(null));
  return row;
}

const ownVerdict = (isPositive) => (isPositive ? "its map is not high here" : "its map is high here");

export function countText([left, top, right, bottom], { width, height }) {
  const number = (right - left + 1) * (bottom - top + 1);
  const cells = width * height === 1 ? "cell" : "cells";
  return `counts as ${number} of ${width * height} ${cells}`;
}

function conceptChoice(box, i, onChange) {
  const choice = make("select", { cls: "tied", "aria-label": `Region ${i + 1} counts for` });
  const fill = (names) => {
    choice.replaceChildren(new Option("all findings", ALL), ...names.map((name) => new Option(name, name)));
    choice.value = box.concept ?? ALL;
  };
  fill(box.concept === null ? [] : [box.concept]);
  // all names when it is used: there may be a thousand, for each of many regions
  const fillAll = () => choice.options.length <= model.concepts.length && fill(model.concepts);
  choice.addEventListener("pointerdown", fillAll);
  choice.addEventListener("focus", fillAll);
  choice.addEventListener("change", () => onChange(i, { ...box, concept: choice.value === ALL ? null : choice.value }));
  return choice;
}
