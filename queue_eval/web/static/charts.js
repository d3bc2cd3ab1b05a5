/** Charts of uPlot that follow the colours and the width of the page. */

import { el } from "./dom.js";
import { moments } from "./formats.js";

/** @returns {string} the value of a custom property now: light and dark have different ones */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** The charts on the page. @type {Set<any>} */
const plots = new Set();

/** Draws all charts again: the colours have changed. */
export function recolour() {
  for (const plot of plots) plot.redraw(false, true);
}

/**
 * @param {string} label text alternative; `describe` replaces it
 * @param {Object} options of uPlot, without width and height
 * @param {(index: number) => void} [onPick] of the x index that was clicked
 */
export function chart(label, options, { height = 240, onPick } = {}) {
  const holder = el("div.chart", { role: "img", "aria-label": label });
  let plot = null;
  let data = null;

  function draw() {
    const width = Math.floor(holder.clientWidth);
    if (!data || width < 40) return;
    if (plot) {
      if (plot.width !== width) plot.setSize({ width, height });
      plot.setData(data);
      return;
    }
    plot = new uPlot({ width, height, padding: [10, 26, 0, 0], ...options }, data, holder);
    plots.add(plot);
    if (onPick) plot.over.addEventListener("click", () => plot.cursor.idx !== null && onPick(plot.cursor.idx));
  }

  const watched = new ResizeObserver(draw);
  watched.observe(holder);
  return {
    node: holder,
    /** @param {Array<Array<number|null>>} columns x first */
    update(columns) {
      data = columns;
      draw();
    },
    describe(text) {
      holder.setAttribute("aria-label", text);
    },
    destroy() {
      watched.disconnect();
      plots.delete(plot);
      plot?.destroy();
      plot = null;
    },
  };
}

export function axis(values, more = {}) {
  return {
    stroke: () => colour("quiet"), grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { stroke: () => colour("grid"), width: 1, size: 4 }, font: "12px system-ui, sans-serif",
    ...(values ? { values: (_, splits) => splits.map((v) => (v === null ? "" : values(v))) } : {}), ...more,
  };
}

export function timeAxis() {
  return axis(null, { values: (_, splits, __, ___, step) => moments(splits, step), size: 44, space: 60 });
}

/** A scale that does not collapse where all values are equal. */
export function spread(_, low, high) {
  if (low === null || high === null) return [0, 1];
  if (low === high) return [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const margin = (high - low) * 0.06;
  return [low - margin, high + margin];
}

/** A panel: a heading, controls, a body, and the same data as a table that is made when it is opened. */
export function panel(title, { wide = false } = {}) {
  const id = `panel-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  const controls = el("div.controls");
  const body = el("div.body");
  const holder = el("div");
  let makeTable = null;
  const behind = el("details", { ontoggle: () => behind.open ? refresh() : holder.replaceChildren() },
    el("summary", {}, "Table"), holder);
  const node = el(wide ? "section.panel.wide" : "section.panel", { "aria-labelledby": id },
    el("header", {}, el("h2", { id }, title), controls), body, behind);

  function refresh() {
    if (behind.open && makeTable) holder.replaceChildren(makeTable());
  }

  return {
    node, controls, body,
    /** @param {() => Node} make */
    table(make) {
      makeTable = make;
      // A table that is being read is left as it is until that is over.
      if (!holder.matches(":hover, :focus-within")) refresh();
    },
    hide(hidden) {
      node.hidden = hidden;
    },
  };
}
