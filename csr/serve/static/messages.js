// Messages: for screen readers, problems at the top of the page, and the dialog that asks for a token.

import { ApiError } from "./api.js";
import { at } from "./view.js";

let forget = () => {};

export function onGone(callback) {
  forget = callback;
}

export function announce(text) {
  at("live").textContent = text;
}

export function showProblem(error) {
  at("problem-text").textContent = error.message;
  at("problem").hidden = false;
}

export function hideProblem() {
  at("problem").hidden = true;
  document.body.classList.remove("stale");
}

// a file that failed, by name; what is on the page is another image: dimmed, so that it is not taken for that file
export function refuse(name, error, shown) {
  const other = shown ? ` The image on the page is still ${shown}.` : "";
  const text = error.message.startsWith(name) ? error.message : `${name}: ${error.message}`;
  showProblem(new Error(`${text}${other}`));
  document.body.classList.toggle("stale", Boolean(shown));
}

// the call's result, or null where the server refused it: then the page shows why
export async function attempt(call, otherwise = showProblem) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForToken();
    else otherwise(error);
    if (error.status === 404) forget();
    return null;
  }
}

function askForToken() {
  const dialog = at("token-dialog");
  at("token-problem").textContent = sessionStorage.getItem("csr-token") ? "That token is not correct." : "";
  if (!dialog.open) dialog.showModal();
}
