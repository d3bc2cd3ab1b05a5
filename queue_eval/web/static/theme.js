/** Light, dark, or as the system has it. */

import { recolour } from "./charts.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** @param {HTMLButtonElement} button */
export function themeSwitch(button) {
  let chosen = kept();
  const show = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = `Colours: ${chosen}`;
    recolour();
  };
  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    try {
      localStorage.setItem("queue-eval-theme", chosen);
    } catch { /* a page may be denied storage */ }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  show();
}

function kept() {
  try {
    const found = localStorage.getItem("queue-eval-theme");
    return found in NEXT ? found : "auto";
  } catch {
    return "auto";
  }
}
