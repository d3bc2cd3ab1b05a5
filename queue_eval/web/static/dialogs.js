/** Questions before an action, and what came of it. */

import { el, put, setText } from "./dom.js";

const TOLD_MS = 6000;
let timer = null;

/** @returns {Promise<boolean>} whether the person agrees */
export function ask(question) {
  return new Promise((resolve) => {
    const box = el("dialog", { "aria-label": question, onclose: () => {
      resolve(box.returnValue === "yes");
      box.remove();
    } }, el("form", { method: "dialog" }, el("p", {}, question), el("div.controls", {},
      el("button.primary", { value: "yes" }, "Yes"), el("button", { value: "no" }, "No"))));
    document.body.append(box);
    box.showModal();
  });
}

/** Shows a sentence for some seconds; an error stays until the next one. */
export function say(sentence, isError = false) {
  const place = document.getElementById("told");
  clearTimeout(timer);
  setText(place, sentence);
  place.className = isError ? "told trouble" : "told";
  place.hidden = false;
  if (!isError) timer = setTimeout(() => { place.hidden = true; put(place); }, TOLD_MS);
}
