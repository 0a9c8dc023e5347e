// The grey window: chosen, typed, or dragged on the image. A change of the view alone: what the model saw stays.

import { at } from "./view.js";
import { draggedWindow, numberText, startOf } from "./windowing.js";

const MODEL = "model";
const OWN = "own";

export class Levels {
  #picture;
  #say;
  #facts = null;
  #window = null; // null: as the model sees it
  #start = null; // of a drag

  constructor(picture, say) {
    this.#picture = picture;
    this.#say = say;
    at("window-preset").addEventListener("change", (event) => this.#choose(event.target.value));
    at("window-centre").addEventListener("change", () => this.#typed("centre"));
    at("window-width").addEventListener("change", () => this.#typed("width"));
  }

  // null: not known yet, or the server does not hand it out
  open(depth) {
    this.#facts = depth?.facts ?? null;
    this.#window = null;
    this.#picture.open(depth);
    const windows = this.#facts?.windows ?? [];
    at("window-preset").replaceChildren(
      new Option("as the model sees it", MODEL),
      ...windows.map((one, i) => new Option(`${one.name} (C ${numberText(one.centre)}, W ${numberText(one.width)})`, String(i))),
      ...(depth ? [ownOption()] : []),
    );
    at("window-unit").textContent = this.#facts?.unit ?? "";
    for (const id of ["window-preset", "window-centre", "window-width"]) at(id).disabled = !depth;
    this.#showNumbers(MODEL);
  }

  // right, down: shares of the stage since the start
  drag(phase, right, down) {
    if (!this.#facts) {
      this.#say("The image in full depth is not here yet.");
      return;
    }
    if (phase === "start") this.#start = this.#window ?? startOf(this.#facts);
    else if (phase === "move" && this.#start) this.#set(draggedWindow(this.#facts, this.#start, right, down), OWN);
    else if (phase === "end") {
      this.#start = null;
      if (this.#window) this.#say(`Centre ${numberText(this.#window.centre)}, width ${numberText(this.#window.width)}`);
    }
  }

  #choose(value) {
    if (value === OWN) this.#set(this.#window ?? startOf(this.#facts), OWN);
    else this.#set(value === MODEL ? null : this.#facts.windows[Number(value)], value);
  }

  // what: centre or width; the other stays as exact as it is
  #typed(what) {
    const value = at(`window-${what}`).valueAsNumber;
    const isGood = Number.isFinite(value) && (what === "centre" || value > 0);
    if (isGood) this.#set({ ...(this.#window ?? startOf(this.#facts)), [what]: value }, OWN);
    else this.#showNumbers(at("window-preset").value);
  }

  #set(window, preset) {
    this.#window = window && { centre: window.centre, width: window.width };
    const pending = this.#picture.show(this.#window);
    this.#showNumbers(preset);
    if (!pending) return;
    at("window-note").textContent = "Reading the full depth\u2026";
    pending.then((isShown) => { // not the numbers: the next one may be half typed
      at("window-note").textContent = isShown ? this.#noteText() : "The full depth did not arrive: try again.";
    });
  }

  #showNumbers(preset) {
    const shown = this.#window ?? this.#facts?.window;
    at("window-preset").value = preset;
    at("window-centre").value = shown ? numberText(shown.centre) : "";
    at("window-width").value = shown ? numberText(shown.width) : "";
    at("window-note").textContent = this.#noteText();
  }

  #noteText() {
    return this.#window ? "Your view only: the model saw its own window." : modelText(this.#facts);
  }
}

function ownOption() {
  return Object.assign(new Option("yours", OWN), { hidden: true });
}

function modelText(facts) {
  if (!facts) return "";
  const rounding = facts.is_exact ? "" : " Values are rounded to 65536 levels.";
  if (facts.shown_by === "table") return `A table of the file (VOI LUT).${rounding}`;
  return rounding.trim();
}
