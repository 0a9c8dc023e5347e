// Requests that change the open image, each from the revision that the page shows.

import { post, putJson } from "./api.js";
import { path, state } from "./view.js";

// the first of what waits: the name of an action, notes, or a function that changes the edits; such functions go together
export function request(waiting) {
  const { revision } = state;
  const todo = waiting.shift();
  if (typeof todo === "string") return post(`${path()}/${todo}`, { revision });
  if (typeof todo === "object") return putJson(`${path()}/notes`, todo, { revision });
  const edits = structuredClone(state.edits);
  todo(edits);
  while (typeof waiting[0] === "function") waiting.shift()(edits);
  return putJson(`${path()}/edits`, edits, { revision });
}
