// The image with its tools: connects stage, pixels and grey window to the controls around them.

import { Depth } from "./depth.js";
import { Levels } from "./levels.js";
import { Picture } from "./picture.js";
import { Stage } from "./stage.js";
import { at, path, state } from "./view.js";

const ZOOM = 1.5; // of a press on a button
const WAITS_MS = [0, 1000, 4000, 15000]; // a busy server is asked again

export class Viewer {
  // addBox(box), changeBox(i, box), removeBox(i), setTool(name), announce(text), paint() of the map
  constructor({ addBox, changeBox, removeBox, setTool, announce, paint }) {
    this.stage = new Stage(at("stage"), {
      box: addBox, change: changeBox, remove: removeBox, tool: setTool, say: announce,
      window: (phase, right, down) => this.levels.drag(phase, right, down),
      view: () => this.#viewed(),
      select: (i) => markSelected(i),
    });
    this.picture = new Picture(at("picture"), { image: at("image"), viewport: this.stage.view });
    this.levels = new Levels(this.picture, announce);
    const { stage } = this;
    at("zoom-in").addEventListener("click", () => stage.zoom(ZOOM));
    at("zoom-out").addEventListener("click", () => stage.zoom(1 / ZOOM));
    at("zoom-fit").addEventListener("click", () => stage.fit());
    at("zoom-one").addEventListener("click", () => stage.oneToOne());
    at("cells").addEventListener("change", () => {
      stage.show({ hasGrid: at("cells").checked });
      if (state) paint();
      stage.draw();
    });
  }

  // the image of the session is on the page
  open() {
    this.levels.open(null);
    this.stage.open(state.image.width, state.image.height);
    this.#readDepth();
  }

  // it is no longer on the page: its pixels leave the memory
  close() {
    this.levels.open(null);
  }

  async #readDepth() {
    const { session } = state;
    for (const wait of WAITS_MS) {
      await new Promise((done) => setTimeout(done, wait));
      if (session !== state?.session) return;
      const depth = await Depth.of(path(), { onPart: () => this.picture.draw() });
      if (session !== state?.session) return;
      if (depth) {
        this.levels.open(depth);
        return;
      }
    }
  }

  // selects a region and puts the keyboard on the image
  select(i) {
    this.stage.on.tool("look");
    this.stage.select(i);
    at("stage").focus();
    this.stage.on.say(`Region ${i + 1} selected. Arrow keys move it, R and arrow keys resize it, Delete removes it.`);
  }

  #viewed() {
    this.picture?.draw();
    const { view } = this.stage;
    at("zoom").textContent = `${Math.round(100 * view.magnification)}%`;
    at("zoom-out").disabled = view.scale <= view.smallest * (1 + 1e-9);
    at("zoom-in").disabled = view.scale >= view.largest * (1 - 1e-9);
    at("zoom-fit").disabled = view.isFit;
    at("zoom-one").disabled = Math.abs(view.magnification - 1) < 1e-9;
  }
}

function markSelected(selected) {
  [...at("boxes").children].forEach((row, i) => row.classList.toggle("selected", i === selected));
}
