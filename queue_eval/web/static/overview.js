/** The campaign at a glance: is it going, what is best, what failed, how long it will take, who works. */

import { el, keepFocus, numeric, put, setText, table } from "./dom.js";
import { count, duration, jobs, keyName, number, rate, roughly, shown, time } from "./formats.js";
import { STATES, badge } from "./states.js";

/** Reasons that the sentence at the top tells already. */
const TOLD_ABOVE = new Set(["goes_on", "finished", "empty"]);

/** One sentence: is it going? @param {Object} doc overview */
export function sentenceOf(doc) {
  const { counts } = doc;
  const finished = counts.succeeded + counts.failed + counts.cancelled;
  const waiting = counts.pending + counts.scheduled;
  const outstanding = waiting + counts.running;
  if (doc.paused && outstanding) {
    return `Paused: ${jobs(waiting)} wait${waiting === 1 ? "s" : ""}` + (counts.running ? `, ${count(counts.running)} still run.` : ".");
  }
  if (!outstanding && !finished) return "Empty: no job was submitted yet.";
  if (!outstanding) {
    const more = doc.planned - finished;
    return more > 0 ? `Waiting for the driver: ${count(finished)} of ${count(doc.planned)} planned jobs are finished.`
      : `Finished: ${jobs(finished)}${counts.failed ? `, ${count(counts.failed)} failed` : ""}.`;
  }
  if (!counts.running) return doc.reasons?.length ? `Waiting: ${doc.reasons[0].sentence}` : `Waiting: ${jobs(waiting)} to be started.`;
  const slots = doc.workers.reduce((sum, worker) => sum + (worker.slots ?? 0), 0);
  const left = typeof doc.time_left_s === "number" ? `, about ${roughly(doc.time_left_s)} left${doc.time_left_is_guess ? " (a guess)" : ""}` : "";
  return slots >= counts.running ? `Running: ${count(counts.running)} of ${count(slots)} slots busy${left}.`
    : `Running: ${jobs(counts.running)}${left}.`;
}

/** @param {Object} options of `panels` */
export function overviewPanel({ jobHref, jobsHref, onRetry, onDrain }) {
  const state = el("p.sentence"), details = el("p.quiet.about"), reasons = el("ul.reasons");
  const bar = el("div.bar", { "aria-hidden": "true" }), counts = el("ul.counts");
  const facts = el("div.facts");
  const failures = el("section.panel.failures", { "aria-labelledby": "failures-head" });
  const workers = el("section.panel.wide", { "aria-labelledby": "workers-head" });
  const node = el("section.overview", { "aria-label": "Overview" }, state, details, reasons, bar, counts, facts);
  const seen = {};

  /** Draws a part only where its data is other than before. */
  function part(name, holder, data, draw) {
    const now = JSON.stringify(data);
    if (seen[name] !== now) keepFocus(holder, draw);
    seen[name] = now;
  }

  function drawCounts(doc) {
    const all = Math.max(1, doc.planned, STATES.reduce((sum, name) => sum + doc.counts[name], 0));
    put(bar, STATES.map((name) => {
      const piece = el(`span.${name}`);
      piece.style.width = `${100 * doc.counts[name] / all}%`;
      return piece;
    }));
    put(counts, STATES.map((name) => el("li", {}, jobsHref
      ? el("a", { href: jobsHref({ state: name }) }, badge(name), " ", el("b", {}, count(doc.counts[name])))
      : [badge(name), " ", el("b", {}, count(doc.counts[name]))])),
    doc.planned > STATES.reduce((sum, name) => sum + doc.counts[name], 0) ? el("li", {}, "planned ", el("b", {}, count(doc.planned))) : null);
  }

  function drawFacts(doc) {
    const best = doc.best;
    const config = best?.config && typeof best.config === "object" ? Object.entries(best.config) : [];
    put(facts,
      fact("Best so far", best ? number(best.value, 6) : "–", best
        ? [keyName(best.key) + " of ", jobHref ? el("a", { href: jobHref(best.id) }, `job ${best.id}`) : `job ${best.id}`]
        : doc.keys.length ? "" : "no result with a number yet"),
      fact("Rate", rate(doc.rate_per_s), ""),
      fact("Time left", doc.time_left_s === 0 ? "none" : doc.time_left_s ? `${duration(doc.time_left_s)}` : "–",
        doc.time_left_is_guess ? "a guess, by the jobs that run" : ""),
      config.length ? el("div.fact.config", {}, el("h2.label", {}, "Config of the best"), pairs(config)) : null);
  }

  function drawFailures(doc) {
    failures.hidden = !doc.failures.length;
    put(failures, el("header", {}, el("h2", { id: "failures-head" }, "Failures"),
      el("div.controls", {}, jobsHref ? el("a.button", { href: jobsHref({ state: "failed" }) }, `Show all ${count(doc.counts.failed)}`) : null,
        onRetry && doc.counts.failed ? el("button", { type: "button", onclick: () => onRetry({}) }, "Retry all failed") : null)),
    table("Failures by the last line of their errors, the most first", ["Jobs", "Last line of the error", "Newest", "Since", "Last", ...(onRetry ? [""] : [])],
      doc.failures.map((group) => [
        numeric(count(group.count)),
        jobsHref ? el("a.error", { href: jobsHref({ state: "failed", group: group.line }) }, group.line) : el("span.error", {}, group.line),
        el("span", {}, group.newest.slice(0, 3).flatMap((id, i) => [i ? ", " : "", jobHref ? el("a", { href: jobHref(id) }, id) : id])),
        time(group.first_ms), time(group.last_ms),
        ...(onRetry ? [el("button", { type: "button", "aria-label": `Retry ${group.line}`, onclick: () => onRetry({ group: group.line }) }, "Retry")] : []),
      ])));
  }

  function drawWorkers(doc) {
    workers.hidden = !doc.workers.length;
    put(workers, el("header", {}, el("h2", { id: "workers-head" }, "Workers")),
      table("Workers", ["Worker", "Host", "Pid", "Busy", "State", "Seen", ...(onDrain ? [""] : [])], doc.workers.map((worker) => [
        worker.name, worker.host ?? "–", numeric(worker.pid === null ? "–" : String(worker.pid)),
        numeric(worker.slots === null ? `${worker.running}` : `${worker.running} of ${worker.slots}`), worker.state ?? "–",
        typeof worker.last_seen_s === "number" ? `${duration(Math.round(worker.last_seen_s))} ago` : "–",
        ...(onDrain ? [worker.state === "lost" || worker.state === "draining" ? "" : el("button", { type: "button", "aria-label": `Drain ${worker.name}`, onclick: () => onDrain(worker.name) }, "Drain")] : []),
      ])));
  }

  return {
    node, failures, workers,
    update(doc) {
      const sentence = sentenceOf(doc);
      setText(state, sentence);
      state.className = `sentence ${sentence.split(":")[0].toLowerCase().split(" ")[0]}`;
      setText(details, `${doc.function ? `${doc.function} by ${doc.method}` : doc.source}, created ${time(doc.created_ms)}` +
        (doc.read_share < 1 ? `; ${Math.floor(100 * doc.read_share)} % of the results are read so far` : ""));
      part("reasons", reasons, [sentence, doc.reasons], () => put(reasons, (doc.reasons ?? []).map((reason) => el("li", {},
        sentence.endsWith(reason.sentence) || TOLD_ABOVE.has(reason.kind) ? null : el("span", {}, reason.sentence, " "),
        reason.advice ? el("span.advice", {}, reason.advice) : null))
        .filter((item) => item.textContent)));
      part("counts", counts, [doc.counts, doc.planned], () => drawCounts(doc));
      part("facts", facts, [doc.best, doc.rate_per_s, Math.round(doc.time_left_s ?? -1), doc.time_left_is_guess], () => drawFacts(doc));
      part("failures", failures, [doc.failures, doc.counts.failed], () => drawFailures(doc));
      part("workers", workers, doc.workers, () => drawWorkers(doc));
    },
  };
}

/** A value with its name above it. */
export function fact(title, value, below) {
  return el("div.fact", {}, el("h2.label", {}, title), el("p.value", {}, value), below ? el("p.quiet", {}, below) : null);
}

/** Keys and values, in order. @param {Array<[string, any]>} entries */
export function pairs(entries) {
  return el("dl.pairs", {}, entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, shown(value)))));
}
