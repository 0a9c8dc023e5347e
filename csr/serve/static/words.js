// The page's words, explained where they stand and together in a list.

import { make } from "./panels.js";
import { at } from "./view.js";

const WORDS = {
  called: "The model calls a diagnosis or a finding when its probability reaches the threshold that was chosen for it "
    + "on validation images. What is not called may still be there.",
  threshold: "The probability from which a diagnosis or a finding is called. Each has its own.",
  probability: "How often images with such a number had the diagnosis among validation images. It holds for patients like "
    + "those, and not where a disease is much rarer or more frequent.",
  score: "A number between 0 and 1 that no validation images made a probability: larger means likelier, and no more.",
  finding: "What the model was taught to see in a region of an image, such as an effusion. Also called a concept.",
  contribution: "How far a finding moves the diagnosis from that of an image without findings: + towards it, \u2212 away. "
    + "A rejected finding contributes nothing.",
  total: "The sum of the starting value and all contributions (the logit, or log-odds, before calibration): the probability "
    + "is made of it. One more is about 2.7 times the odds.",
  "starting value": "Where the diagnosis stands in an image in which every finding looks as it does where it is absent "
    + "(the base).",
  prototype: "A small region that the model learned to look for: what a finding looks like. Every finding has several.",
  similarity: "How alike a region of this image and a prototype are to the model (a cosine, at most 1). Images without "
    + "the finding are alike too: what counts is how far it lies above what is usual without it.",
  map: "The similarity of every cell of the image to one prototype: clear where it is usual for images without the "
    + "finding, brightest where it is usual with it. Drawn smoothly, but no finer than its cells.",
  confirm: "You say that the finding is there: its similarities are raised to what is usual with it.",
  reject: "You say that the finding is not there: its similarities become what is usual without it.",
  "look here": "Only what the regions show counts in full; the rest of the image counts as far as you set.",
  "not here": "What the region shows counts as if no finding were in it.",
  "usual without the finding": "The median similarity over training images without the finding.",
  "needs a doctor": "The model's decisions are uncertain or contradict each other, by a rule that was measured on validation images.",
};

// of a model of which exactly one diagnosis holds
const OF_ONE = {
  called: "The model calls a finding when its probability reaches the threshold that was chosen for it on validation images. "
    + "Of the diagnoses, of which exactly one holds, it calls the likeliest. What is not called may still be there.",
  threshold: "The probability from which a finding is called. Each has its own. Diagnoses have none.",
};

export function wireWords() {
  at("words").addEventListener("click", () => at("words-dialog").showModal());
  at("words-close").addEventListener("click", () => at("words-dialog").close());
  for (const button of document.querySelectorAll("button.term")) {
    button.addEventListener("click", () => explain(button));
  }
}

// what the words mean for a model
export function fillWords({ one_diagnosis: isOne }) {
  if (isOne) Object.assign(WORDS, OF_ONE);
  at("words-list").replaceChildren(...Object.entries(WORDS).flatMap(([word, text]) => [
    make("dt", { text: word }), make("dd", { text })]));
  for (const button of document.querySelectorAll("button.term")) button.title = WORDS[button.dataset.term];
  at("key-threshold").hidden = isOne;
  at("key-likeliest").hidden = !isOne;
}

function explain(button) {
  const note = at("term");
  note.replaceChildren(make("b", { text: `${button.dataset.term}: ` }), WORDS[button.dataset.term]);
  note.showPopover();
  const frame = button.getBoundingClientRect();
  const left = Math.max(8, Math.min(frame.left, innerWidth - note.offsetWidth - 8));
  const below = frame.bottom + 6;
  const top = below + note.offsetHeight < innerHeight ? below : Math.max(8, frame.top - note.offsetHeight - 6);
  note.style.setProperty("left", `${left}px`);
  note.style.setProperty("top", `${top}px`);
}
