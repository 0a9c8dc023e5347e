// The diagnoses in a line that stays in sight on small screens while findings are edited.

import { make, probabilityText, signed } from "./panels.js";
import { at, calledWord, indices } from "./view.js";

const SHOWN = 5;

export function fillGlance(state, target, onPick) {
  const order = indices(state.diagnoses, (d) => (d.present ? 1 : 0) + d.probability);
  const shown = order.slice(0, SHOWN);
  if (!shown.includes(target)) shown.splice(-1, 1, target);
  const focused = [...at("glance-rows").querySelectorAll("button")].indexOf(document.activeElement);
  at("glance-rows").replaceChildren(...shown.map((t) => {
    const d = state.diagnoses[t];
    const moved = d.probability - d.before.probability;
    const change = Math.abs(moved) < 0.0005 ? [] : [make("span", { cls: `change ${moved > 0 ? "up" : "down"}`, text: signed(100 * moved, 1) })];
    const button = make("button", { type: "button", cls: d.present ? "called" : "", "aria-pressed": String(t === target) },
      make("span", { cls: "name", text: d.name }), " ", make("b", { text: probabilityText(d) }), " ", ...change,
      ...(d.present ? [make("span", { cls: "unseen", text: calledWord() })] : []));
    button.addEventListener("click", () => onPick(t));
    return make("li", {}, button);
  }));
  if (focused >= 0) at("glance-rows").querySelectorAll("button")[focused]?.focus();
}
