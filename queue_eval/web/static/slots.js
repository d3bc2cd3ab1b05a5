/** Who ran what when: a strip for each slot. What is empty was idle. */

import { panel } from "./charts.js";
import { el, numeric, put, svg, table } from "./dom.js";
import { duration, jobs, time } from "./formats.js";
import { BY_LETTER, SIGNS } from "./states.js";

const WIDTH = 1000, LANE = 14;

/** Each state has a height of its own, so that it is told without its colour. [from, to] of a lane */
const HEIGHTS = { succeeded: [3, 11], failed: [0, 14], cancelled: [6, 8], running: [3, 11] };
const MOST_ROWS = 500;

/** @param {{openJob?: (id: number) => void, jobHref?: (id: number) => string}} options */
export function slotsPanel({ openJob, jobHref }) {
  const frame = panel("Slots", { wide: true });
  const place = el("div.lanes", { tabindex: 0, role: "region", "aria-label": "Strips of slots" });
  const note = el("p.note");
  frame.body.append(legend(), place, note);
  let doc = null;

  function draw() {
    const span = Math.max(1, doc.to_ms - doc.from_ms);
    const x = (ms) => (ms - doc.from_ms) / span * WIDTH;
    put(place, doc.lanes.map((lane, at) => {
      const paths = { succeeded: "", failed: "", cancelled: "", running: "" };
      for (const [start, end, , letter] of lane.spans) {
        const state = BY_LETTER[letter] ?? "cancelled", [top, bottom] = HEIGHTS[state];
        const left = x(start), width = Math.max(1, x(end ?? doc.to_ms) - left - 0.6);
        paths[state] += `M${left.toFixed(1)},${top}h${width.toFixed(1)}v${bottom - top}h${(-width).toFixed(1)}z`;
      }
      const isFirst = !at || doc.lanes[at - 1].worker !== lane.worker;
      return el("div.lane", {},
        el("span.lane-name", { title: lane.worker + (lane.host ? ` on ${lane.host}` : "") }, isFirst ? lane.worker : ""),
        svg("svg", { viewBox: `0 0 ${WIDTH} ${LANE}`, preserveAspectRatio: "none", "data-lane": at, "aria-hidden": "true" },
          Object.entries(paths).map(([state, d]) => d ? svg(`path.${state}`, { d }) : null)));
    }), el("div.lane.scale", { "aria-hidden": "true" }, el("span.lane-name"),
      el("span.ends", {}, el("span", {}, time(doc.from_ms)), el("span", {}, time(doc.to_ms)))));
    frame.table(rows);
  }

  /** The span under the pointer: [lane, span], or null. */
  function under(event) {
    const strip = event.target.closest?.("svg[data-lane]");
    if (!strip || !doc) return null;
    const box = strip.getBoundingClientRect();
    const ms = doc.from_ms + (event.clientX - box.left) / box.width * (doc.to_ms - doc.from_ms);
    const lane = doc.lanes[strip.dataset.lane];
    const found = lane?.spans.find(([start, end]) => start <= ms && ms <= (end ?? doc.to_ms));
    return lane && [lane, found];
  }

  place.addEventListener("pointermove", (event) => {
    const found = under(event);
    if (!found) return;
    const [lane, span] = found;
    note.textContent = span
      ? `${lane.worker}, slot ${lane.lane}: job ${span[2]} ${BY_LETTER[span[3]] ?? ""}, from ${time(span[0])}, ${duration(((span[1] ?? doc.to_ms) - span[0]) / 1000)}`
      : `${lane.worker}, slot ${lane.lane}: idle`;
  });
  place.addEventListener("pointerleave", usual);
  place.addEventListener("click", (event) => {
    const span = under(event)?.[1];
    if (span) openJob?.(span[2]);
  });

  function usual() {
    note.textContent = doc?.more_workers ? `${doc.more_workers} more workers have run fewer jobs; they are not shown.` : "";
  }

  function rows() {
    const all = doc.lanes.flatMap((lane) => lane.spans.map((span) => [lane, span])).sort((a, b) => b[1][0] - a[1][0]);
    const shares = doc.lanes.map((lane) => [
      lane.worker, lane.lane, lane.spans.length,
      numeric(`${Math.round(100 * lane.spans.reduce((sum, [start, end]) => sum + (end ?? doc.to_ms) - start, 0) / Math.max(1, doc.to_ms - doc.from_ms))} %`),
    ]);
    return el("div", {}, table("Slots", ["Worker", "Slot", "Attempts", "Busy"], shares),
      table(`The newest of ${jobs(all.length)}`, ["Worker", "Slot", "Job", "State", "From", "Ran"], all.slice(0, MOST_ROWS).map(([lane, [start, end, id, letter]]) => [
        lane.worker, lane.lane, jobHref ? el("a", { href: jobHref(id) }, id) : id, BY_LETTER[letter] ?? letter, time(start),
        numeric(duration(((end ?? doc.to_ms) - start) / 1000)),
      ])));
  }

  return {
    node: frame.node,
    update(found) {
      const ends = found.lanes.flatMap((lane) => lane.spans.map(([, end]) => end ?? found.to_ms));
      // Where nothing runs any more, the time since then is no idle time worth a picture.
      doc = { ...found, to_ms: ends.reduce((a, b) => Math.max(a, b), found.from_ms + 1) };
      frame.hide(!doc.lanes.length);
      if (!doc.lanes.length) return;
      draw();
      if (!place.matches(":hover")) usual();
    },
  };
}

function legend() {
  return el("p.legend", {}, ["succeeded", "failed", "cancelled", "running"].map((state) =>
    el("span", {}, svg("svg.swatch", { viewBox: `0 0 24 ${LANE}`, "aria-hidden": "true" },
      svg(`path.${state}`, { d: `M0,${HEIGHTS[state][0]}h24v${HEIGHTS[state][1] - HEIGHTS[state][0]}h-24z` })), `${state} `)),
  el("span.quiet", {}, "empty: idle"));
}
