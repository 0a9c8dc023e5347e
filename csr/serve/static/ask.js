// A question that must be answered before something is lost.

import { at } from "./view.js";

export function ask({ title, text, yes, no }) {
  const dialog = at("ask-dialog");
  at("ask-title").textContent = title;
  at("ask-text").textContent = text;
  at("ask-yes").textContent = yes;
  at("ask-no").textContent = no;
  dialog.returnValue = "";
  dialog.showModal();
  at("ask-no").focus(); // what loses nothing
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}
