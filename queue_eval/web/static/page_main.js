/** Draws the panels of a page of its own, from the documents in it. */

import { setText } from "./dom.js";
import { time } from "./formats.js";
import { panels } from "./panels.js";
import { themeSwitch } from "./theme.js";

const documents = JSON.parse(document.getElementById("documents").textContent);
const drawn = panels({});
document.getElementById("main").append(drawn.node);
setText(document.getElementById("made"), `As of ${time(documents.overview.now_ms)}`);
themeSwitch(document.getElementById("theme"));
for (const kind of ["overview", "course", "curves", "sample", "slots"]) {
  if (documents[kind]) drawn.update(kind, documents[kind]);
}
