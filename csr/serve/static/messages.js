// Messages: for screen readers, problems at the top of the page, and the dialog that asks for a token.

import { ApiError } from "./api.js";
import { keepFocus } from "./focus.js";
import { at, path, state } from "./view.js";

const GONE = ["unused", "kept", "room", "closed", "unknown"]; // why a session is: see `Problem` of the API

let onGoneCall = () => {};

// callback(error): the server has the session of the open image no more
export function onGone(callback) {
  onGoneCall = callback;
}

export const isGone = (error) => GONE.includes(error.reason);
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1).replace(/[.;]?$/, ".")}`;

export function announce(text) {
  at("live").textContent = text;
}

export function showProblem(error) {
  at("problem-text").textContent = error.message;
  at("problem-reload").hidden = error.reason !== "revision";
  at("problem").hidden = false;
}

export function hideProblem() {
  at("problem").hidden = true;
  keepFocus();
}

// what happened without being a problem, until something else happens
export function showInfo(text) {
  at("info-text").textContent = text;
  at("info").hidden = false;
}

export function hideInfo() {
  at("info").hidden = true;
  keepFocus();
}

// the call's result, or null where the server refused it: then the page shows why
export async function attempt(call, otherwise = showProblem) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForToken();
    else if (isGone(error) && state && error.path.startsWith(path())) onGoneCall(error);
    else otherwise(error);
    return null;
  }
}

function askForToken() {
  const dialog = at("token-dialog");
  at("token-problem").textContent = sessionStorage.getItem("csr-token") ? "That token is not correct." : "";
  if (!dialog.open) dialog.showModal();
}
