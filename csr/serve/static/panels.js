// Lists beside the image. Rows are made once for an image and then updated in place: focus stays where it is.

import { calledWord, indices } from "./view.js";

export function make(name, { text, cls, ...rest } = {}, ...children) {
  const made = document.createElement(name);
  if (cls) made.className = cls;
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(rest)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// a number that no validation images calibrated is a score, and no share of images
export const probabilityText = ({ probability, calibration }) =>
  calibration === "score" ? `score ${probability.toFixed(2)}` : percentText(probability);
export const percentText = (value) => `${(100 * value).toFixed(1)}%`;
export const signed = (value, digits = 2) => {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return `${value < 0 ? "\u2212" : "+"}${text}`;
};
const setWidth = (bar, share) => bar.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));

const SHOWN_CONCEPTS = 6;
const byContribution = (concepts, target) =>
  indices(concepts, (concept) => Math.abs(concept.contribution_before[target]));

export class DiagnosisList {
  constructor(list, { onPick }) {
    Object.assign(this, { list, onPick, rows: [] });
  }

  fill(diagnoses, order) {
    this.rows = diagnoses.map((diagnosis, t) => this.#row(diagnosis, t));
    this.list.replaceChildren(...order.map((t) => this.rows[t].item));
  }

  #row(diagnosis, t) {
    const name = make("span", { cls: "name", text: diagnosis.name });
    const badge = make("span", { cls: "badge", text: calledWord() });
    const value = make("span", { cls: "value" });
    const change = make("span", { cls: "change" });
    const bar = make("span", { cls: "bar" }, ...["now", "was", "threshold"].map((cls) => make("i", { cls })));
    const words = make("span", { cls: "words" }, name, badge);
    const button = make("button", { type: "button", cls: "diagnosis" }, words, value, change, bar);
    button.addEventListener("click", () => this.onPick(t));
    return { item: make("li", {}, button), button, badge, value, change, bar };
  }

  update(diagnoses, picked) {
    diagnoses.forEach((d, t) => {
      const row = this.rows[t];
      const moved = d.probability - d.before.probability;
      row.button.setAttribute("aria-pressed", String(t === picked));
      const rule = d.threshold === null ? "" : `called from ${percentText(d.threshold)} on; `; // null: the likeliest is called
      row.button.title = `${rule}total ${signed(d.logit, 3)}, an image without findings ${signed(d.base, 3)}`;
      row.badge.hidden = !d.present;
      row.value.textContent = probabilityText(d);
      row.change.textContent = Math.abs(moved) < 0.0005 ? "" : `${signed(100 * moved, 1)}`;
      row.change.className = `change ${moved > 0 ? "up" : "down"}`;
      setWidth(row.bar.querySelector(".now"), d.probability);
      row.bar.querySelector(".was").style.setProperty("--at", String(d.before.probability));
      row.bar.querySelector(".was").hidden = Math.abs(moved) < 0.0005;
      row.bar.querySelector(".threshold").hidden = d.threshold === null;
      row.bar.querySelector(".threshold").style.setProperty("--at", String(d.threshold ?? 0));
    });
  }
}

export class ConceptList {
  constructor({ active, others, summary, details }, { onPick, onDecide, hasAtlas }) {
    Object.assign(this, { active, others, summary, details, onPick, onDecide, hasAtlas, rows: [] });
  }

  fill(concepts) {
    this.rows = concepts.map((concept, k) => this.#row(concept, k));
  }

  // what contributes most to the diagnosis first, called or not; of the rest what is called or decided
  arrange({ concepts, edits }, target) {
    const order = byContribution(concepts, target);
    const largest = new Set(order.filter((k) => concepts[k].best_prototype !== null).slice(0, SHOWN_CONCEPTS));
    const isShown = (k) => largest.has(k) || concepts[k].active || concepts[k].name in edits.decisions;
    const hidden = order.filter((k) => !isShown(k));
    const focused = document.activeElement; // moving a row takes the focus away
    this.active.replaceChildren(...order.filter(isShown).map((k) => this.rows[k].item));
    this.others.replaceChildren(...hidden.map((k) => this.rows[k].item));
    if (this.active.contains(focused) || this.others.contains(focused)) focused.focus();
    this.details.hidden = !hidden.length;
    this.hidden = hidden;
    this.rows.forEach((row, k) => { row.isShown = isShown(k); });
    return order[0];
  }

  #row(concept, k) {
    const label = `Map of ${concept.name}`;
    const thumb = make("canvas", { width: 96, height: 96, cls: "thumb", role: "img", "aria-label": label });
    const near = make("img", { cls: "thumb near", alt: "", hidden: true });
    const name = make("span", { cls: "name", text: concept.name });
    const facts = make("span", { cls: "quiet facts" });
    const uncalled = make("span", { cls: "quiet uncalled", text: "the model does not call this finding" });
    const bar = make("span", { cls: "diverging" }, make("i"));
    const share = make("span", { cls: "share" });
    const pictures = make("span", { cls: "pictures" }, thumb, ...(this.hasAtlas ? [near] : []));
    const pick = make("button", { type: "button", cls: "pick" }, pictures,
      make("span", { cls: "words" }, name, facts, uncalled), make("span", { cls: "added" }, bar, share));
    pick.addEventListener("click", () => this.onPick(k));
    const confirm = this.#decision(concept, k, "confirmed", "\u2713", "Confirm");
    const reject = this.#decision(concept, k, "rejected", "\u2715", "Reject");
    const item = make("li", { cls: "concept" }, pick, make("span", { cls: "decide" }, confirm, reject));
    return { item, pick, thumb, near, facts, uncalled, bar, share, confirm, reject };
  }

  #decision(concept, k, decision, sign, word) {
    const label = `${word} ${concept.name}`;
    const button = make("button", { type: "button", cls: `decision ${decision}`, "aria-label": label, title: word },
      make("span", { text: sign, "aria-hidden": "true" }), make("span", { cls: "word", text: word }));
    button.addEventListener("click", () => this.onDecide(k, decision));
    return button;
  }

  update(state, { target, picked }) {
    const shares = state.concepts.flatMap((c) => [c.contribution[target], c.contribution_before[target]]);
    const largest = Math.max(1e-9, ...shares.map(Math.abs));
    const below = this.hidden.reduce((sum, k) => sum + state.concepts[k].contribution[target], 0);
    const num = this.hidden.length;
    const concepts = num === 1 ? "finding" : "findings";
    this.summary.textContent = `${num} other ${concepts}, together ${signed(below)}`;
    state.concepts.forEach((concept, k) => {
      const row = this.rows[k];
      const decision = state.edits.decisions[concept.name];
      const added = concept.contribution[target];
      row.item.dataset.decision = decision ?? "";
      row.pick.setAttribute("aria-pressed", String(k === picked));
      row.confirm.setAttribute("aria-pressed", String(decision === "confirmed"));
      row.reject.setAttribute("aria-pressed", String(decision === "rejected"));
      row.facts.textContent = `${probabilityText(concept)} \u00b7 ${scoreText(concept)}`;
      row.uncalled.hidden = concept.active;
      row.share.textContent = signed(added);
      row.share.className = `share ${added < 0 ? "down" : "up"}`;
      row.bar.className = `diverging ${added < 0 ? "down" : "up"}`;
      setWidth(row.bar.querySelector("i"), Math.abs(added) / largest);
    });
  }
}

function scoreText({ similarity, score }) {
  if (score === null) return "no prototypes";
  const counted = score === similarity ? "" : `, counted as ${score.toFixed(2)}`;
  return `similarity ${similarity.toFixed(2)}${counted}`;
}

export function fillWarnings(area, state, model) {
  const notes = [];
  if (state.novelty_note) {
    notes.push(make("p", { cls: "note bad", role: "alert", text: state.novelty_note }));
  }
  const contradictions = state.safety.boxes.flatMap((evidence, i) => (
    evidence.contradicts ? [contradiction(state.edits.boxes[i].kind, evidence, i + 1)] : [])).join("; ");
  if (state.safety.warn) {
    const moved = (100 * state.safety.regions_moved).toFixed(0);
    const against = contradictions ? `, and contradict the other evidence: ${contradictions}` : "";
    notes.push(make("p", { cls: "note bad", role: "alert" }, make("b", { text: "Check the regions. " }),
      `Your regions change a probability by ${moved} percentage points${against}.`));
  } else if (contradictions) {
    notes.push(make("p", { cls: "note" }, `Regions contradict the maps: ${contradictions}.`));
  }
  if (state.safety.flips) {
    notes.push(make("p", { cls: "note" }, "Your edits change the most likely diagnosis."));
  }
  if (state.needs_doctor) {
    notes.push(make("p", { cls: "note info", text: `${state.doubt}: a doctor should decide.` }));
  }
  area.replaceChildren(...notes);
}

function contradiction(kind, { concept, peak }, number) {
  const seen = `${concept} ${peak.toFixed(2)}`;
  return kind === "positive" ? `no map is high in region +${number} (highest: ${seen})`
    : `a map is high in region \u2212${number} (${seen})`;
}

export function fillTable(table, head, rows) {
  const cells = (kind) => (text) => make(kind, kind === "th" ? { text, scope: "col" } : {});
  table.tHead.replaceChildren(make("tr", {}, ...head.map(cells("th"))));
  table.tBodies[0].replaceChildren(...rows.map(({ cls = "", cells: values }) => make("tr", { cls },
    ...values.map((value) => make("td", {}, value)))));
}
