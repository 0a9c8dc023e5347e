// Changes of the open image: one request at a time, each from the revision that the page then shows.

import { post, putJson } from "./api.js";
import { attempt } from "./messages.js";
import { path, state } from "./view.js";

export class Changes {
  #waiting = []; // { session, todo }
  #running = null; // a promise

  // answered(answer, before, ms), a promise; refused(); ended(went), after all that waited
  constructor(on) {
    this.on = on;
  }

  get isBusy() {
    return this.#running !== null;
  }

  get hasWaiting() {
    return this.#waiting.length > 0;
  }

  // todo: the name of an action, notes, or a function that changes the edits then in force
  // the promise is kept when it, and all that came meanwhile, is in the state
  add(todo) {
    if (!state) return Promise.resolve(); // the image has just left the page
    this.#waiting.push({ session: state.session, todo });
    this.#running ??= this.#drain().then((went) => this.on.ended(went));
    return this.#running;
  }

  // what is on its way belongs to its image: nobody leaves that before
  async settled() {
    while (this.#running) await this.#running.catch(() => {}); // whoever made the change reports it
  }

  // whether all went through
  async #drain() {
    try {
      while (this.#isNext()) {
        const began = performance.now();
        const before = state;
        const answer = await attempt(() => this.#request());
        if (state?.session !== before.session) continue; // another image is on the page
        if (!answer) {
          this.#waiting.length = 0; // they started from what was refused
          this.on.refused();
          return false;
        }
        await this.on.answered(answer, before, performance.now() - began);
      }
      return true;
    } finally {
      this.#running = null;
      this.#waiting.length = 0;
    }
  }

  // whether something waits for the open image; what waited for another one is dropped
  #isNext() {
    while (this.hasWaiting && this.#waiting[0].session !== state?.session) this.#waiting.shift();
    return this.hasWaiting;
  }

  // functions that change edits go together
  #request() {
    const { revision } = state;
    const { todo } = this.#waiting.shift();
    if (typeof todo === "string") return post(`${path()}/${todo}`, { revision });
    if (typeof todo === "object") return putJson(`${path()}/notes`, todo, { revision });
    const edits = structuredClone(state.edits);
    todo(edits);
    while (typeof this.#waiting[0]?.todo === "function") this.#waiting.shift().todo(edits);
    return putJson(`${path()}/edits`, edits, { revision });
  }
}
