// Focus never falls to the page's body: where a control that had it goes or is switched off, its neighbour gets it.

import { at } from "./view.js";

let last = null; // what had the focus
let row = []; // its neighbours, in order

export function wireFocus() {
  addEventListener("focusin", (event) => {
    last = event.target;
    row = [...(last.closest("[role=toolbar], ul, ol, .actions")?.querySelectorAll("button") ?? [])];
  });
}

const canHave = (element) => element.isConnected && !element.disabled && element.checkVisibility();

export function keepFocus() {
  const { activeElement } = document;
  if (!last || document.querySelector("dialog[open]")) return;
  if (activeElement !== document.body && canHave(activeElement)) return;
  const place = row.indexOf(last);
  const near = [...row.slice(place + 1), ...row.slice(0, Math.max(0, place)).reverse()].find(canHave);
  const others = [at("stage"), at("state-panel"), at("drop"), at("main")];
  (near ?? others.find(canHave))?.focus({ preventScroll: true });
}
