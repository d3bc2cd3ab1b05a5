/** One job, live: how it stands, its config and result, every attempt with its error and output, its curves. */

import { curvesPanel } from "./curves.js";
import { el, keepFocus, put, setText } from "./dom.js";
import { duration, number, time } from "./formats.js";
import { fact, pairs } from "./overview.js";
import { session } from "./session.js";
import { badge } from "./states.js";

/**
 * @param {number} id
 * @param {{onAction: (body: Object, asked?: string) => Promise<void>, onName: (name: string) => void}} options
 * `onName`: another value of its reports is wanted
 */
export function jobPage(id, { onAction, onName }) {
  const state = el("p.sentence", { "aria-live": "polite" }), actions = el("div.controls");
  const reasons = el("ul.reasons"), facts = el("div.facts"), config = el("section.panel"), result = el("section.panel");
  const attempts = el("section.panel.wide", { "aria-labelledby": "attempts-head" });
  const output = el("section.panel.wide", { "aria-labelledby": "output-head", hidden: true });
  const curves = curvesPanel({ title: "Reports", onName });
  curves.node.classList.add("wide");
  curves.node.hidden = true;
  const text = el("pre", { tabindex: 0, role: "region", "aria-label": "Output" });
  output.append(el("h2", { id: "output-head" }, "Output of the newest attempt"), text);
  const node = el("section.job", { "aria-label": `Job ${id}` }, el("div.above", {}, state, actions), reasons, facts,
    el("div.panels", {}, result, config, curves.node, output, attempts));
  const seen = {};
  let job = null;

  function part(name, holder, data, draw) {
    const now = JSON.stringify(data);
    if (seen[name] !== now) keepFocus(holder, draw);
    seen[name] = now;
  }

  function drawActions() {
    if (!session.read_write) return put(actions);
    const button = (action, label, asked) => el("button", { type: "button", onclick: () => onAction({ action, ids: [id] }, asked) }, label);
    put(actions,
      job.state === "failed" || job.state === "cancelled" ? button("retry", "Retry") : null,
      job.state === "running" ? button("stop", job.stop_asked ? "Ask again to stop" : "Stop early") : null,
      ["running", "pending", "scheduled"].includes(job.state) ? button("cancel", "Cancel", `Cancel job ${id}?`) : null);
  }

  return {
    node,
    update(doc) {
      job = doc;
      part("state", state, [doc.state, doc.stop_asked, doc.cause], () => put(state, badge(doc.state),
        doc.cause ? `, cause: ${doc.cause}` : "", doc.stop_asked && doc.state === "running" ? ", asked to stop" : ""));
      part("actions", actions, [doc.state, doc.stop_asked, session.read_write], drawActions);
      part("reasons", reasons, doc.reasons, () => put(reasons, (doc.reasons ?? []).map((reason) =>
        el("li", {}, reason.sentence, " ", reason.advice ? el("span.advice", {}, reason.advice) : null))));
      part("facts", facts, [doc.worker, doc.host, doc.finished_at, doc.run_s, doc.wait_s], () => put(facts,
        fact("Worker", doc.worker ?? "–", doc.host ? `on ${doc.host}` : ""), fact("Submitted", time(doc.submitted_at)),
        fact("Finished", time(doc.finished_at)), fact("Ran", duration(doc.run_s)), fact("Waited", duration(doc.wait_s))));
      part("config", config, doc.config, () => put(config, el("h2", {}, "Config"), pairs(Object.entries(doc.config ?? {}))));
      part("result", result, [doc.state, doc.result, doc.error], () => {
        result.classList.toggle("wide", doc.state === "failed");
        put(result, ...outcome(doc));
      });
      part("attempts", attempts, doc.attempts, () => put(attempts, ...drawnAttempts(doc)));
      if (doc.reports) curves.update(doc.reports);
      output.hidden = !doc.output;
      // Who looks at the end sees what is new there.
      const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
      setText(text, doc.output ?? "");
      if (isAtEnd) text.scrollTop = text.scrollHeight;
    },
  };
}

function outcome(doc) {
  if (doc.state === "failed") return [el("h2", {}, "Error"), traceback(doc.error ?? doc.cause ?? "", "Error of the job")];
  if (doc.state !== "succeeded") return [el("h2", {}, "Result"), el("p.quiet", {}, "None yet.")];
  const { result } = doc;
  return [el("h2", {}, "Result"), result && typeof result === "object" && !Array.isArray(result) ? pairs(Object.entries(result))
    : el("p.value", {}, typeof result === "number" ? number(result, 8) : JSON.stringify(result))];
}

function drawnAttempts(doc) {
  const list = Array.isArray(doc.attempts) ? doc.attempts : [];
  return [el("h2", { id: "attempts-head" }, "Attempts"), list.length ? null : el("p.quiet", {}, "None has begun yet."),
    el("ol.attempts", {}, list.map((attempt, at) => el("li", {}, el("h3", {}, `Attempt ${attempt.attempt}: ${attempt.outcome ?? "runs"}`),
      el("p.quiet", {}, [attempt.worker && `by ${attempt.worker}${attempt.host ? ` on ${attempt.host}` : ""}`,
        attempt.started_ms && `from ${time(attempt.started_ms)}`, attempt.ended_ms && `to ${time(attempt.ended_ms)}`,
        typeof attempt.run_s === "number" && `ran ${duration(attempt.run_s)}`].filter(Boolean).join(", ")),
      attempt.error && attempt.error !== doc.error ? traceback(attempt.error, `Error of attempt ${attempt.attempt}`) : null,
      attempt.output ? el("details", { open: at === list.length - 1 && !doc.output }, el("summary", {}, "Output"), el("pre", { tabindex: 0, role: "region", "aria-label": `Output of attempt ${attempt.attempt}` }, attempt.output)) : null)))];
}

function traceback(text, label) {
  return el("pre.traceback", { tabindex: 0, role: "region", "aria-label": label }, text);
}
