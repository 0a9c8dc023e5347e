// What the page shows: the model, the session as the server last sent it, and what is picked in it.

export let model = null;
export let state = null; // null: no image is open
export let target = 0; // diagnosis that contributions are shown for
export let picked = 0; // concept
export let mapShown = true; // on the image; with nothing called only when a concept is selected
export let prototype = null; // of that concept; null: its best one

export function set(changes) {
  ({
    model = model, state = state, target = target, picked = picked, prototype = prototype, mapShown = mapShown,
  } = changes);
}

export const at = (id) => document.getElementById(id);
export const path = () => `sessions/${encodeURIComponent(state.session)}`;
export const calledWord = () => (model.one_diagnosis ? "likeliest" : "called"); // of a diagnosis; a finding is called
export const shownPrototype = () => prototype ?? state.concepts[picked].best_prototype;
export const place = () => `${picked}.${shownPrototype()}`;

export function indices(list, value) {
  return list.map((_, i) => i).sort((a, b) => value(list[b]) - value(list[a]));
}
