/** The states of jobs: each has a sign beside its colour, so that no meaning hangs on the colour alone. */

import { el } from "./dom.js";

export const STATES = ["succeeded", "failed", "cancelled", "running", "pending", "scheduled"];
export const SIGNS = { succeeded: "✓", failed: "✕", cancelled: "⊘", running: "▶", pending: "•", scheduled: "◷", lost: "?" };
export const BY_LETTER = { s: "succeeded", f: "failed", c: "cancelled", r: "running" };

/** Sign and name of a state. */
export function badge(state) {
  return el(`span.state.${SIGNS[state] ? state : "pending"}`, {},
    el("span.sign", { "aria-hidden": "true" }, SIGNS[state] ?? "•"), state);
}
