/** All panels of one campaign. They are drawn from documents of JSON only: live, or in a page of its own. */

import { curvesPanel } from "./curves.js";
import { coursePanel, pacePanel } from "./course.js";
import { parallelPanel, scatterPanel } from "./configs.js";
import { el } from "./dom.js";
import { overviewPanel } from "./overview.js";
import { slotsPanel } from "./slots.js";

/**
 * @param {Object} options
 * `jobHref(id)`, `openJob(id)`, `jobsHref({state, group})`: where jobs are shown; without them nothing is linked.
 * `onName(name)`: another value of the curves is wanted. `onRetry`, `onDrain`: actions, where they are allowed.
 * @returns {{node: HTMLElement, update: (kind: string, doc: Object) => void}}
 */
export function panels(options) {
  const overview = overviewPanel(options);
  const course = coursePanel(options), pace = pacePanel(), curves = curvesPanel(options);
  const parallel = parallelPanel(options), scatter = scatterPanel(options), slots = slotsPanel(options);
  const grid = el("div.panels", {}, overview.failures, course.node, curves.node, scatter.node, parallel.node,
    slots.node, pace.node, overview.workers);
  const takers = {
    overview: [overview], course: [course, pace], curves: [curves], sample: [parallel, scatter], slots: [slots],
  };
  curves.node.classList.add("pair");
  scatter.node.classList.add("pair");
  // What was never told of is not shown as empty.
  for (const hidden of [course.node, pace.node, curves.node, parallel.node, scatter.node, slots.node]) hidden.hidden = true;
  return {
    node: el("div", {}, overview.node, grid),
    update(kind, doc) {
      for (const taker of takers[kind] ?? []) taker.update(doc);
    },
  };
}
