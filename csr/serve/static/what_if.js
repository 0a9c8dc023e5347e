// What would change the chosen diagnosis: the fewest decisions on findings, each a button that makes them in one step.

import { getJson } from "./api.js";
import { attempt } from "./messages.js";
import { make, percentText } from "./panels.js";
import { at, model, path, state, target } from "./view.js";

const WORDS = { confirmed: "confirm", rejected: "reject" };

export class WhatIf {
  #shown = null; // state and diagnosis of what the panel says

  // onApply({concept: decision})
  constructor({ onApply }) {
    this.onApply = onApply;
    at("what-if").addEventListener("toggle", () => this.show());
  }

  async show() {
    if (!state || !at("what-if").open) return;
    const [now, t] = [state, target];
    if (this.#shown?.now === now && this.#shown.t === t) return;
    const found = await attempt(() => getJson(`${path()}/what_if/${t}`));
    if (!found || state !== now || target !== t) return;
    this.#shown = { now, t };
    const verb = `${found.present ? "no longer " : ""}be ${model.one_diagnosis ? "the likeliest" : "called"}`;
    at("what-if-title").textContent = found.sets.length
      ? `${found.target} would ${verb} after any one of these:`
      : `No single decision on a finding, and no two of them, would make ${found.target} ${verb}.`;
    at("what-if-rows").replaceChildren(...found.sets.map((one) => make("li", {}, this.#button(one))));
    const left = found.num_single + found.num_pairs - found.sets.length;
    at("what-if-rest").textContent = left > 0 ? `${left} more sets of one or two decisions would do so too.` : "";
  }

  #button({ changes, probability }) {
    const words = changes.map(({ concept, decision }) => `${WORDS[decision]} ${concept}`).join(" and ");
    const start = words[0].toUpperCase() + words.slice(1);
    const isScore = state.diagnoses[target].calibration === "score";
    const text = isScore ? `score ${probability.toFixed(2)}` : percentText(probability);
    const button = make("button", { type: "button", cls: "set" }, make("span", { text: start }), make("b", { text }));
    button.addEventListener("click", () => this.onApply(Object.fromEntries(changes.map((one) => [one.concept, one.decision]))));
    return button;
  }
}
