// Evidence for the picked concept: its map on the image, the training regions behind it, and two tables.

import { getBlob, getJson } from "./api.js";
import { cellSize, drawOverlay, drawPicture, framePeak } from "./heat.js";
import { attempt } from "./messages.js";
import { fillTable, make, percentText, probabilityText, signed } from "./panels.js";
import { at, indices, mapShown, model, path, picked, place, prototype, shownPrototype, state, target } from "./view.js";

const SHOWN_PROTOTYPES = 8;
const SHOWN_REGIONS = 5;
const MAX_MAPS = 256; // in one request
const OPACITY = 0.55; // of maps on small pictures

export class Evidence {
  #maps = new Map(); // "concept.prototype" -> map under the regions in force
  #mapsOf = ""; // the regions that they are under
  #regions = new Map(); // "concept/prototype/rank" -> a promise of the picture's address

  // stage; rows() of the concepts; onPick(prototype, or null for the best one)
  constructor({ stage, rows, onPick }) {
    Object.assign(this, { stage, rows, onPick });
  }

  clear() {
    this.#maps = new Map();
    this.#mapsOf = "";
  }

  async show() {
    if (!state) return;
    const [shown, k] = [state, picked];
    const { boxes, alpha, replacement } = shown.edits;
    const now = JSON.stringify([shown.session, boxes, boxes.length ? [alpha, replacement] : 0]);
    const known = now === this.#mapsOf ? this.#maps : new Map();
    const query = missingMaps(known).map((one) => `of=${one}`).join("&");
    const [added, detail] = await Promise.all([
      query ? attempt(() => getJson(`${path()}/maps?${query}`)) : { maps: [] },
      attempt(() => getJson(`${path()}/concepts/${k}`)),
    ]);
    if (!added || !detail || state !== shown || picked !== k) return; // what is shown has changed meanwhile
    for (const one of added.maps) known.set(`${one.concept}.${one.prototype}`, one);
    this.#maps = known;
    this.#mapsOf = now;
    this.paint();
    this.#paintThumbs();
    this.#showFacts();
    this.#showPrototypes(detail.prototypes);
    showShares();
    await Promise.all([this.#showRegions(), this.showNearThumbs()]);
  }

  // the picked map on the image and on the small picture
  paint() {
    const map = this.#maps.get(place());
    const concept = state.concepts[picked];
    if (map) {
      const { values, low, high } = map;
      const colours = { values, low, high, palette: model.palette };
      const opacity = Number(at("opacity").value) / 100;
      if (mapShown) drawOverlay(at("heat"), state.map, { ...colours, opacity }, at("cells").checked);
      else clearHeat();
      drawPicture(at("evidence"), at("image"), state.map, { ...colours, opacity: OPACITY });
      const peak = prototype === null && concept.peak ? concept.peak : centreOfHighest(values);
      framePeak(at("evidence"), state.map, peak);
      this.stage.show({ peak: mapShown ? peak : null, cell: cellSize(state.map) });
      showScale(low, high);
    } else {
      clearHeat();
      this.stage.show({ peak: null });
    }
    at("shown-map").textContent = mapText(concept);
  }

  #paintThumbs() {
    state.concepts.forEach((concept, k) => {
      const map = this.#maps.get(`${k}.${concept.best_prototype}`);
      if (!map) return;
      const { values, low, high } = map;
      const canvas = this.rows()[k].thumb;
      drawPicture(canvas, at("image"), state.map, { values, low, high, palette: model.palette, opacity: OPACITY });
      framePeak(canvas, state.map, concept.peak);
    });
  }

  #showFacts() {
    const concept = state.concepts[picked];
    const current = shownPrototype();
    const verdict = concept.active ? "present" : "below its threshold";
    const highest = Math.max(...(this.#maps.get(place())?.values ?? [0]));
    at("detail-title").textContent = `Evidence: ${concept.name}`;
    at("detail-facts").textContent =
      `${probabilityText(concept)}, ${verdict} (threshold ${percentText(concept.threshold)})`;
    at("evidence").setAttribute("aria-label", `The image with the map of ${concept.name}, prototype ${current}`);
    at("evidence-caption").textContent = current === null ? "no prototypes"
      : `This image: prototype ${current}, similarity ${highest.toFixed(3)}`;
  }

  #showPrototypes(prototypes) {
    const table = at("prototypes");
    const current = shownPrototype();
    const order = indices(prototypes, (one) => Math.abs(one.contribution[target]));
    const rows = order.map((i) => prototypes[i]);
    const kept = rows.slice(0, SHOWN_PROTOTYPES);
    if (!kept.some((one) => one.prototype === current)) kept.push(...rows.filter((one) => one.prototype === current));
    const focused = table.contains(document.activeElement) ? document.activeElement.textContent : null;
    const head = ["prototype", "similarity counted", "usual without", "weight", `contribution to ${state.diagnoses[target].name}`];
    fillTable(table, head, kept.map((one) => this.#prototypeRow(one, one.prototype === current)));
    if (focused !== null) [...table.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
    const title = rows.length > kept.length ? `Prototypes: ${kept.length} of ${rows.length}` : "Prototypes";
    table.caption.textContent = `${title}, largest contribution first`;
  }

  #prototypeRow({ prototype: number, score, absent_median: usual, weight, contribution }, isCurrent) {
    const button = make("button", {
      type: "button", cls: "link", text: String(number), "aria-pressed": String(isCurrent),
      "aria-label": `Show prototype ${number}`,
    });
    button.addEventListener("click", () => {
      this.onPick(number === state.concepts[picked].best_prototype ? null : number);
    });
    const raw = [score.toFixed(3), usual === null ? "\u2013" : usual.toFixed(3), signed(weight[target], 3)];
    return { cls: isCurrent ? "current" : "", cells: [button, ...raw, signed(contribution[target], 3)] };
  }

  async #showRegions() {
    const area = at("looks-like");
    if (!model.has_atlas) {
      const text = "To see the training regions behind the prototypes, start the server with --atlas DIR.";
      area.replaceChildren(make("p", { cls: "quiet", text }));
      return;
    }
    const [k, m] = [picked, shownPrototype()];
    if (m === null) {
      area.replaceChildren();
      return;
    }
    const near = await attempt(() => getJson(`regions/${k}/${m}`));
    if (!near || !state || picked !== k || shownPrototype() !== m) return;
    const figures = near.slice(0, SHOWN_REGIONS).map((one, rank) => this.#regionFigure(one, k, m, rank));
    const none = make("p", { cls: "quiet", text: "The atlas has no training region for this prototype." });
    area.replaceChildren(...(figures.length ? figures : [none]));
  }

  #regionFigure(region, k, m, rank) {
    const image = make("img", { alt: `Training region ${rank + 1} behind prototype ${m}` });
    const title = make("b", { text: rank ? `Training ${rank + 1}` : "Looks like" });
    const file = region.image === null ? [] : [make("span", { cls: "file", text: region.image })];
    const caption = make("figcaption", {}, title, ` similarity ${region.similarity.toFixed(3)}`, ...file);
    this.#regionPicture(k, m, rank).then((address) => {
      if (address) image.src = address;
      else image.replaceWith(make("span", { cls: "gone", text: "The file is missing or cannot be read." }));
    });
    return make("figure", {}, image, caption);
  }

  async showNearThumbs() {
    if (!model.has_atlas || !state) return;
    const visible = state.concepts.flatMap((concept, k) => (
      concept.best_prototype !== null && (this.rows()[k].isShown || at("others").open) ? [[k, concept.best_prototype]] : []));
    for (const [k, m] of visible) {
      const address = await this.#regionPicture(k, m, 0);
      if (!state || state.concepts[k].best_prototype !== m) return;
      const { near } = this.rows()[k];
      near.hidden = !address;
      if (address && near.src !== address) near.src = address;
      near.alt = `Training region of prototype ${m} of ${state.concepts[k].name}`;
    }
  }

  async #regionPicture(k, m, rank) {
    const key = `${k}/${m}/${rank}`;
    if (!this.#regions.has(key)) {
      const picture = getBlob(`regions/${key}`).then((blob) => URL.createObjectURL(blob)).catch(() => null);
      this.#regions.set(key, picture);
    }
    return this.#regions.get(key);
  }
}

function clearHeat() {
  at("heat").getContext("2d").clearRect(0, 0, at("heat").width, at("heat").height);
}

function showScale(low, high) {
  const [without, withIt] = model.contributions_from === "zero" ? ["", ""] : ["without the concept ", " with it"];
  at("scale-low").textContent = `${without}${low.toFixed(2)}`;
  at("scale-high").textContent = `${high.toFixed(2)}${withIt}`;
}

function mapText(concept) {
  if (concept.best_prototype === null) return `${concept.name}: all of its prototypes were dropped`;
  if (!mapShown) return "No concept is called: select one to see its map.";
  const how = at("cells").checked ? "each in the colour of its value" : "smoothed";
  const cells = `map of ${state.map.height} \u00d7 ${state.map.width} cells, ${how}`;
  return `${concept.name}, prototype ${shownPrototype()}: ${cells}; frame: highest cell`;
}

function missingMaps(known) {
  const all = state.concepts.flatMap((c, k) => (c.best_prototype === null ? [] : [`${k}.${c.best_prototype}`]));
  if (prototype !== null) all.push(place());
  return [...new Set(all)].filter((one) => !known.has(one)).slice(0, MAX_MAPS);
}

function centreOfHighest(values) {
  const { width, frame } = state.map;
  const [across, down] = cellSize(state.map);
  const highest = values.indexOf(Math.max(...values));
  return [frame[0] + ((highest % width) + 0.5) * across, frame[1] + (Math.floor(highest / width) + 0.5) * down];
}

function showShares() {
  const concept = state.concepts[picked];
  const head = ["diagnosis", "now", "without edits"];
  fillTable(at("shares"), head, state.diagnoses.map((diagnosis, t) => ({
    cls: t === target ? "current" : "",
    cells: [diagnosis.name, signed(concept.contribution[t], 3), signed(concept.contribution_before[t], 3)],
  })));
}
