// Colours: as the system, light or dark; the choice stays in this browser.

import { at } from "./view.js";

const THEME = "csr-theme";
const NAMES = { auto: "system", light: "light", dark: "dark" };
const SIGNS = { auto: "\u25d0", light: "\u2600", dark: "\u263e" };

export function wireTheme() {
  set(localStorage.getItem(THEME) in NAMES ? localStorage.getItem(THEME) : "auto");
  at("theme").addEventListener("click", () => {
    const order = Object.keys(NAMES);
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    localStorage.setItem(THEME, next);
    set(next);
  });
}

function set(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = SIGNS[theme];
  at("theme").title = `Colours: ${NAMES[theme]}`;
  at("theme").setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
}
