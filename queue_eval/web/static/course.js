/** All outcomes in their order: their values with the best so far, failures, pace and how many jobs ran. */

import { axis, chart, colour, panel, spread, timeAxis } from "./charts.js";
import { el, numeric, select, table } from "./dom.js";
import { count, duration, keyName, number, rate, time } from "./formats.js";

const MOST_ROWS = 200;

/** So high is a bar where all outcomes failed. */
const FAILED_PX = 60;

/** @param {{openJob?: (id: number) => void}} options */
export function coursePanel({ openJob }) {
  const frame = panel("Objective over time", { wide: true });
  let course = null;
  let by = "number";
  const drawn = { number: plot("number"), ms: plot("ms") };
  const note = el("p.note");
  frame.controls.append(select("By", [["number", "order"], ["ms", "time"]], by, (chosen) => {
    by = chosen;
    show();
  }));
  frame.body.append(legend(), drawn.number.node, drawn.ms.node, note);

  function plot(x) {
    return chart("Objective over time", {
      legend: { show: false },
      cursor: { y: false, points: { size: 7 } },
      scales: { x: { time: x === "ms" }, y: { range: spread } },
      axes: [x === "ms" ? timeAxis() : axis(count, { size: 30, space: 84 }), axis((v) => number(v, 4), { size: 64 })],
      series: [
        {},
        { label: "high", stroke: () => colour("running"), paths: bandOrPoints, points: { show: false } },
        { label: "low", paths: () => null, points: { show: false } },
        { label: "best", stroke: () => colour("accent"), width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
      ],
      hooks: { draw: [marks], setCursor: [read] },
    }, { height: 280, onPick: pick });
  }

  /** One mark per outcome, or from the lowest to the highest of a stretch. */
  function bandOrPoints(u, _, from, to) {
    const path = new Path2D();
    const n = u.data[0].length;
    const size = (n < 150 ? 3 : n < 500 ? 2.2 : 1.6) * devicePixelRatio;
    for (let i = from; i <= to; i++) {
      const high = u.data[1][i], low = u.data[2][i];
      if (high === null || high === undefined) continue;
      const x = u.valToPos(u.data[0][i], "x", true);
      const top = u.valToPos(high, "y", true), bottom = u.valToPos(low, "y", true);
      path.rect(x - size, top - size, 2 * size, Math.max(2 * size, bottom - top + 2 * size));
    }
    u.ctx.save();
    u.ctx.globalAlpha = 0.55;
    u.ctx.fillStyle = colour("running");
    u.ctx.fill(path);
    u.ctx.restore();
    return null;
  }

  /** At the lower edge: a cross where an outcome failed, or a bar as high as the share that failed. */
  function marks(u) {
    if (!course) return;
    if (course.width > 1) return shares(u);
    const { ctx, bbox } = u;
    const arm = 3 * devicePixelRatio, y = bbox.top + bbox.height - 2 * arm;
    ctx.save();
    ctx.strokeStyle = colour("failed");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath();
    let last = -Infinity;
    course.failed.forEach((failed, i) => {
      const x = u.valToPos(u.data[0][i], "x", true);
      if (!failed || x - last < arm || x < bbox.left || x > bbox.left + bbox.width) return;
      last = x;
      ctx.moveTo(x - arm, y - arm); ctx.lineTo(x + arm, y + arm);
      ctx.moveTo(x + arm, y - arm); ctx.lineTo(x - arm, y + arm);
    });
    ctx.stroke();
    ctx.restore();
  }

  function shares(u) {
    const { ctx, bbox } = u;
    const thickness = Math.max(1, bbox.width / course.failed.length), bottom = bbox.top + bbox.height;
    ctx.save();
    ctx.fillStyle = colour("failed");
    course.failed.forEach((failed, i) => {
      if (!failed) return;
      const height = Math.max(2 * devicePixelRatio, FAILED_PX * devicePixelRatio * failed / course.count[i]);
      ctx.fillRect(u.valToPos(u.data[0][i], "x", true) - thickness, bottom - height, thickness, height);
    });
    ctx.restore();
  }

  function read(u) {
    const i = u.cursor.idx;
    note.textContent = i === null || i === undefined || !course ? usual() : spoken(i);
  }

  function spoken(i) {
    const values = course.high[i] === null ? "no value"
      : course.low[i] === course.high[i] ? `${number(course.high[i], 6)} (job ${course.high_id[i]})`
      : `${number(course.low[i])} (job ${course.low_id[i]}) to ${number(course.high[i])} (job ${course.high_id[i]})`;
    const failed = course.failed[i] ? `, ${count(course.failed[i])} failed` : "";
    const best = course.best[i] === null ? "" : `; best so far ${number(course.best[i], 6)} (job ${course.best_id[i]})`;
    return `Outcome ${count(course.number[i])}, ${time(course.ms[i])}: ${values}${failed}${best}`;
  }

  function usual() {
    if (!course?.number.length) return "Nothing has finished yet.";
    return course.width > 1 ? `Each bar spans ${count(course.width)} outcomes, from the lowest value to the highest; below, the share that failed.` : "";
  }

  function pick(i) {
    const id = course?.direction === "min" ? course.low_id[i] : course?.high_id[i];
    if (id && openJob) openJob(id);
  }

  function show() {
    drawn.number.node.hidden = by !== "number";
    drawn.ms.node.hidden = by !== "ms";
    if (!course) return;
    const x = by === "ms" ? course.ms.map((ms) => ms / 1000) : course.number;
    drawn[by].update([x, course.high, course.low, course.best]);
    const end = course.best.length - 1;
    drawn[by].describe(end < 0 ? "Nothing has finished yet" :
      `${keyName(course.key)} of ${count(course.number[end])} outcomes in their order. ` +
      `Best so far: ${number(course.best[end], 6)}. The table below has the same data.`);
    note.textContent = usual();
    frame.table(rows);
  }

  function rows() {
    const step = Math.max(1, Math.ceil(course.number.length / MOST_ROWS));
    const chosen = course.number.map((_, i) => i).filter((i) => i % step === step - 1 || i === course.number.length - 1);
    return table(`${keyName(course.key)} over time`,
      ["Outcome", "Time", "Lowest", "Highest", "Best so far", "Job of the best", "Failed"],
      chosen.map((i) => [
        numeric(count(course.number[i])), time(course.ms[i]), numeric(number(course.low[i])), numeric(number(course.high[i])),
        numeric(number(course.best[i], 6)), numeric(count(course.best_id[i])), numeric(count(course.failed[i])),
      ]));
  }

  show();
  return {
    node: frame.node,
    update(doc) {
      course = doc;
      frame.hide(!doc.number.length);
      show();
    },
  };
}

function legend() {
  return el("p.legend", { "aria-hidden": "true" },
    el("span.key.dot"), "value ", el("span.key.line"), "best so far ", el("span.key.cross"), "✕", " failed");
}

/** Rate, jobs at once and jobs that wait, over time. */
export function pacePanel() {
  const frame = panel("Rate and queue", { wide: true });
  let course = null;
  const perMinute = small("Rate", "succeeded", (v) => number(v, 3));
  const busy = small("Jobs at once", "running", (v) => number(v, 3));
  const waiting = small("Jobs submitted and not finished", "quiet", (v) => number(v, 4));
  const names = { rate: el("h3"), busy: el("h3", {}, "Jobs at once"), depth: el("h3", {}, "Jobs not finished") };
  const depth = el("div", {}, names.depth, waiting.node);
  frame.body.classList.add("three");
  frame.body.append(el("div", {}, names.rate, perMinute.node), el("div", {}, names.busy, busy.node), depth);

  return {
    node: frame.node,
    update(doc) {
      course = smoothed(doc);
      frame.hide(!course.ms.length);
      const x = course.ms.map((ms) => ms / 1000);
      const unit = unitOf(course.rate);
      names.rate.textContent = `Finished per ${unit.name}`;
      perMinute.update([x, course.rate.map((v) => v === null ? null : v * unit.seconds)]);
      busy.update([x, course.busy]);
      depth.hidden = !course.depth;
      if (course.depth) waiting.update([x, course.depth]);
      perMinute.describe(`Jobs finished per ${unit.name} over time; the table below has the same data`);
      frame.table(() => table("Rate and queue over time", ["Until", "Span", "Rate", "Jobs at once", "Not finished"],
        course.ms.map((ms, i) => [
          time(ms), i ? duration((ms - course.ms[i - 1]) / 1000) : "–", numeric(rate(course.rate[i])),
          numeric(number(course.busy[i], 3)), numeric(course.depth ? count(course.depth[i]) : "–"),
        ])));
    },
  };
}

const MOST_BINS = 120;

/** The course in at most so many spans of equal time: one outcome alone has no rate worth a picture. */
function smoothed(course) {
  const n = course.ms.length;
  const start = course.ms[0], end = course.ms[n - 1];
  const bins = Math.min(MOST_BINS, Math.max(1, Math.floor(n / 8)));
  const width = (end - start) / bins;
  const found = { ms: [], rate: [], busy: [], depth: course.depth ? [] : null };
  if (n < 2 || !(width > 0)) return found;
  const finished = new Array(bins).fill(0), worked = new Array(bins).fill(0), depths = new Array(bins).fill(null);
  for (let i = 1; i < n; i++) {
    // Spread over the time since the outcome before: a long stretch fills several bins.
    const from = course.ms[i - 1], to = course.ms[i];
    const first = Math.min(bins - 1, Math.floor((from - start) / width)), last = Math.min(bins - 1, Math.floor((to - start) / width));
    for (let bin = first; bin <= last; bin++) {
      const shared = Math.min(to, start + (bin + 1) * width) - Math.max(from, start + bin * width);
      const part = to > from ? Math.max(0, shared) / (to - from) : Number(bin === last);
      finished[bin] += course.count[i] * part;
      worked[bin] += (course.busy[i] ?? 0) * Math.max(0, shared);
    }
    if (course.depth) depths[last] = course.depth[i];
  }
  for (let bin = 0; bin < bins; bin++) {
    found.ms.push(start + (bin + 1) * width);
    found.rate.push(finished[bin] * 1000 / width);
    found.busy.push(worked[bin] / width);
    found.depth?.push(depths[bin]);
  }
  return found;
}

function unitOf(rates) {
  const most = Math.max(0, ...rates.filter((v) => v !== null));
  if (most >= 1) return { name: "second", seconds: 1 };
  return most >= 1 / 60 ? { name: "minute", seconds: 60 } : { name: "hour", seconds: 3600 };
}

function small(label, name, values) {
  return chart(label, {
    legend: { show: false }, cursor: { y: false },
    scales: { y: { range: (_, __, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [timeAxis(), axis(values, { size: 52 })],
    series: [{}, { stroke: () => colour(name), width: 1.5, spanGaps: true, points: { show: false } }],
  }, { height: 130 });
}
