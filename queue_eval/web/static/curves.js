/** What jobs report while they run. */

import { axis, chart, colour, panel, spread } from "./charts.js";
import { el, numeric, put, select, table } from "./dom.js";
import { number, time } from "./formats.js";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const HUES = ["hue-1", "hue-2", "hue-3", "hue-4", "hue-5"];

/**
 * @param {{title?: string, jobHref?: (id: number) => string, onName?: (name: string) => void}} options
 * `onName`: another value is to be shown
 */
export function curvesPanel({ title = "Curves of reports", jobHref, onName }) {
  const frame = panel(title);
  const place = el("div");
  const key = el("ul.curve-key");
  const note = el("p.note");
  let shape = "";
  let plot = null;
  frame.body.append(place, key, note);

  function remade(curves, name) {
    const wanted = JSON.stringify([name, curves.map((c) => [c.id, c.state])]);
    if (wanted === shape) return;
    shape = wanted;
    plot?.destroy();
    plot = chart(`${name} by step`, {
      legend: { show: false }, cursor: { y: false },
      scales: { x: { time: false }, y: { range: spread } },
      axes: [axis((v) => number(v, 6), { size: 30 }), axis((v) => number(v, 4), { size: 60 })],
      series: [{}, ...curves.map((curve, i) => ({
        label: `job ${curve.id}`, stroke: () => colour(HUES[i % HUES.length]), width: curve.state === "running" ? 2 : 1.2,
        dash: DASHES[Math.floor(i / HUES.length) % DASHES.length], spanGaps: true, points: { show: false },
      }))],
      hooks: { setCursor: [read] },
    }, { height: 240 });
    put(place, plot.node);
    put(key, curves.map((curve, i) => el("li", {},
      sample(HUES[i % HUES.length], DASHES[Math.floor(i / HUES.length) % DASHES.length]),
      jobHref ? el("a", { href: jobHref(curve.id) }, `job ${curve.id}`) : `job ${curve.id}`,
      curve.state === "running" ? " (runs)" : "")));
  }

  function read(u) {
    const i = u.cursor.idx;
    note.textContent = i === null || i === undefined ? "" : `Step ${u.data[0][i]}: ` + u.series.slice(1)
      .map((s, at) => [s.label, u.data[at + 1][i]]).filter(([, v]) => typeof v === "number").slice(0, 6)
      .map(([label, v]) => `${label} ${number(v)}`).join(", ");
  }

  return {
    node: frame.node,
    update(doc) {
      const curves = doc.curves.filter((curve) => curve.points.length);
      frame.hide(!curves.length);
      if (!curves.length) return;
      put(frame.controls, doc.names.length > 1 && onName
        ? select("Value", doc.names.map((n) => [n, n]), doc.name, onName) : el("span.quiet", {}, doc.name));
      remade(curves, doc.name);
      const steps = [...new Set(curves.flatMap((curve) => curve.points.map(([step]) => step)))].sort((a, b) => a - b);
      plot.update([steps, ...curves.map((curve) => aligned(curve.points, steps))]);
      plot.describe(`${doc.name} by step, of ${curves.length} jobs; the table below has the last values`);
      frame.table(() => table(`${doc.name} as reported`, ["Job", "State", "Points", "Last step", "Last", "Lowest", "Highest", "Reported"],
        curves.map((curve) => {
          const values = curve.points.map(([, v]) => v).filter((v) => v !== null);
          const [step, last] = curve.points[curve.points.length - 1];
          return [
            jobHref ? el("a", { href: jobHref(curve.id) }, curve.id) : curve.id, curve.state, curve.points.length, step,
            numeric(number(last)), numeric(number(values.length ? Math.min(...values) : null)),
            numeric(number(values.length ? Math.max(...values) : null)), time(curve.last_ms),
          ];
        })));
    },
  };
}

/** Values at the steps of all curves. A later attempt's value at a step stands for the earlier one's. */
function aligned(points, steps) {
  const at = new Map(points);
  return steps.map((step) => at.get(step) ?? null);
}

function sample(hue, dash) {
  const canvas = el("canvas", { width: 44, height: 12, class: "stroke", "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.strokeStyle = colour(hue);
  pen.lineWidth = 4;
  pen.setLineDash(dash.map((n) => 2 * n));
  pen.moveTo(0, 6);
  pen.lineTo(44, 6);
  pen.stroke();
  return canvas;
}
