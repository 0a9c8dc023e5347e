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
}

// the call's result, or null where the server refused it: then the page shows why
export async function attempt(call) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForToken();
    else showProblem(error);
    if (error.status === 404) forget();
    return null;
  }
}

function askForToken() {
  const dialog = at("token-dialog");
  at("token-problem").textContent = sessionStorage.getItem("csr-token") ? "That token is not correct." : "";
  if (!dialog.open) dialog.showModal();
}
