/** Configs against the objective: parallel coordinates, and any two keys. Strong colour means a better value. */

import { panel } from "./charts.js";
import { el, numeric, put, select, svg, table } from "./dom.js";
import { keyName, number, shown } from "./formats.js";

const MOST_AXES = 9;
const MOST_LABELS = 10;
const LEAST = 640, HEIGHT = 300, TOP = 44, BOTTOM = 22, SIDE = 46;

/** Where a value stands on an axis, from 0 to 1; words stand evenly, in their order. */
class Scale {
  constructor(values) {
    const given = values.filter((v) => v !== null && v !== undefined);
    this.isNumbers = given.length > 0 && given.every((v) => typeof v === "number");
    if (this.isNumbers) {
      this.low = Math.min(...given);
      this.high = Math.max(...given);
      // Learning rates and the like: equal steps are equal factors. One value near 0 does not decide.
      const tenth = [...given].sort((a, b) => a - b)[Math.floor(given.length / 10)];
      this.isLog = this.low > 0 && this.high / tenth >= 50;
    } else {
      this.words = [...new Set(given.map(shown))].sort();
    }
  }

  at(value) {
    if (value === null || value === undefined) return null;
    if (!this.isNumbers) return this.words.length < 2 ? 0.5 : this.words.indexOf(shown(value)) / (this.words.length - 1);
    if (this.low === this.high) return 0.5;
    const f = this.isLog ? Math.log : (v) => v;
    return (f(value) - f(this.low)) / (f(this.high) - f(this.low));
  }

  /** [place from 0 to 1, label] */
  ticks() {
    if (!this.isNumbers) {
      const step = Math.ceil(this.words.length / MOST_LABELS);
      return this.words.map((word, i) => [this.words.length < 2 ? 0.5 : i / (this.words.length - 1), word])
        .filter((_, i) => i % step === 0);
    }
    if (this.low === this.high) return [[0.5, number(this.low, 3)]];
    const middle = this.isLog ? Math.sqrt(this.low * this.high) : (this.low + this.high) / 2;
    return [[0, number(this.low, 3)], [0.5, number(middle, 3)], [1, number(this.high, 3)]];
  }
}

/** Rows from the worst to the best, each with its rank from 0 to 1. */
function ranked(doc) {
  const sign = doc.direction === "min" ? -1 : 1;
  const rows = [...doc.rows].sort((a, b) => sign * (a.value - b.value));
  return rows.map((row, i) => ({ ...row, rank: rows.length < 2 ? 1 : i / (rows.length - 1) }));
}

/** The best tenth stands out; the rest fades. */
const strength = (rank) => (0.08 + 0.87 * rank ** 5).toFixed(3);

function valueTable(title, doc, rows, jobHref) {
  const best = [...rows].reverse();
  return table(`${title}: ${keyName(doc.key)}, the best first`, ["Job", keyName(doc.key), ...doc.columns],
    best.map((row) => [
      jobHref ? el("a", { href: jobHref(row.id) }, row.id) : row.id, numeric(number(row.value, 6)),
      ...doc.columns.map((name) => typeof row.config[name] === "number" ? numeric(number(row.config[name])) : shown(row.config[name] ?? undefined)),
    ]));
}

const cut = (text, most = 14) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

/** A panel that is hidden where a sample has nothing to show, and is drawn anew when the sample is another one. */
function whenChanged(frame, drawAnew) {
  let seen = "";
  return {
    node: frame.node,
    update(found) {
      const isEmpty = !found.rows.length || !found.columns.length;
      frame.hide(isEmpty);
      const now = JSON.stringify(found);
      if (now === seen || isEmpty) return;
      seen = now;
      drawAnew(found);
    },
  };
}

/** @param {{openJob?: (id: number) => void, jobHref?: (id: number) => string}} options */
export function parallelPanel({ openJob, jobHref }) {
  const frame = panel("Configs and objective", { wide: true });
  const place = el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Parallel coordinates" });
  const note = el("p.note");
  frame.body.append(place, note);
  let doc = null;
  onWidth(place, () => doc && draw());

  function draw() {
    const width = Math.max(LEAST, place.clientWidth);
    const rows = ranked(doc);
    const names = doc.columns.slice(0, MOST_AXES);
    const columns = [...names.map((name) => rows.map((row) => row.config[name])), rows.map((row) => row.value)];
    const scales = columns.map((values) => new Scale(values));
    const gap = (width - 2 * SIDE) / Math.max(1, columns.length - 1);
    const x = (i) => SIDE + i * gap;
    const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
    const usual = `${rows.length} jobs: the best, and others by chance` +
      (doc.columns.length > names.length ? `; ${doc.columns.length - names.length} more keys are in the table` : "") + ".";
    const lines = rows.map((row, at) => svg("path.line", {
      "data-row": at, "stroke-opacity": strength(row.rank),
      d: trace(columns.map((values, i) => scales[i].at(values[at])), x, y),
    }));
    const axes = columns.map((_, i) => svg("g", {},
      svg("line.axis", { x1: x(i), x2: x(i), y1: TOP, y2: HEIGHT - BOTTOM }),
      svg("text.head", { x: x(i), y: i % 2 && columns.length > 6 ? 12 : 28, "text-anchor": "middle" }, cut(i < names.length ? names[i] : keyName(doc.key), 18)),
      scales[i].ticks().map(([share, label]) => svg("text.tick", {
        x: x(i) + (i === columns.length - 1 ? -6 : 6), y: y(share) + 4, "text-anchor": i === columns.length - 1 ? "end" : "start",
      }, cut(label)))));
    note.textContent = usual;
    put(place, svg("svg.parallel", {
      viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img",
      "aria-label": `Parallel coordinates of ${rows.length} jobs over ${names.join(", ")} and ${keyName(doc.key)}; the table below has the same data`,
      onpointerover: (event) => {
        const row = rows[event.target.dataset?.row];
        note.textContent = row ? spoken(doc, row) : usual;
      },
      onclick: (event) => rows[event.target.dataset?.row] && openJob?.(rows[event.target.dataset.row].id),
    }, lines, axes));
    frame.table(() => valueTable("Parallel coordinates", doc, rows, jobHref));
  }

  return whenChanged(frame, (found) => {
    doc = found;
    draw();
  });
}

function trace(shares, x, y) {
  let path = "", isOn = false;
  shares.forEach((share, i) => {
    if (share !== null) path += `${isOn ? "L" : "M"}${x(i).toFixed(1)},${y(share).toFixed(1)}`;
    isOn = share !== null;
  });
  return path;
}

function spoken(doc, row) {
  return `Job ${row.id}: ${keyName(doc.key)} ${number(row.value, 6)}; ` +
    doc.columns.map((name) => `${name} ${shown(row.config[name] ?? undefined)}`).join(", ");
}

/** Any two keys, each job a mark whose strength is its rank. */
export function scatterPanel({ openJob, jobHref }) {
  const frame = panel("Two keys");
  const place = el("div"), note = el("p.note");
  frame.body.append(place, note);
  let doc = null, chosen = ["", ""];
  onWidth(place, () => doc && draw());

  function choose(names) {
    if (!names.includes(chosen[0])) chosen[0] = names[0];
    if (!names.includes(chosen[1])) chosen[1] = names.find((name) => name !== chosen[0]) ?? names[0];
    put(frame.controls, ["Across", "Up"].map((label, at) => select(label, names.map((n) => [n, n === OBJECTIVE ? keyName(doc.key) : n]), chosen[at], (name) => {
      chosen[at] = name;
      draw();
    })));
  }

  function draw() {
    const rows = ranked(doc);
    const [a, b] = chosen.map((name) => rows.map((row) => name === OBJECTIVE ? row.value : row.config[name]));
    const scales = [new Scale(a), new Scale(b)];
    const width = Math.max(260, place.clientWidth);
    const x = (share) => 92 + share * (width - 112), y = (share) => 250 - share * 230;
    const usual = `${rows.length} jobs; strong marks are the best by ${keyName(doc.key)}.`;
    note.textContent = usual;
    const dots = rows.map((row, at) => {
      const [across, up] = [scales[0].at(a[at]), scales[1].at(b[at])];
      return across === null || up === null ? null
        : svg("circle.dot", { cx: x(across).toFixed(1), cy: y(up).toFixed(1), r: (3 + 3 * row.rank ** 5).toFixed(1), "fill-opacity": strength(row.rank), "data-row": at });
    });
    const label = (at) => chosen[at] === OBJECTIVE ? keyName(doc.key) : chosen[at];
    put(place, svg("svg.scatter", {
      viewBox: `0 0 ${width} 300`, width, height: 300, role: "img", "aria-label": `${label(1)} against ${label(0)}; the table below has the same data`,
      onpointerover: (event) => {
        const row = rows[event.target.dataset?.row];
        note.textContent = row ? spoken(doc, row) : usual;
      },
      onclick: (event) => rows[event.target.dataset?.row] && openJob?.(rows[event.target.dataset.row].id),
    },
    svg("line.axis", { x1: 84, x2: width - 12, y1: 258, y2: 258 }), svg("line.axis", { x1: 84, x2: 84, y1: 12, y2: 258 }),
    scales[0].ticks().map(([share, text], i, all) => svg("text.tick", { x: x(share), y: 274, "text-anchor": all.length > 1 && i === all.length - 1 ? "end" : i ? "middle" : "start" }, cut(text, 12))),
    scales[1].ticks().map(([share, text]) => svg("text.tick", { x: 78, y: y(share) + 4, "text-anchor": "end" }, cut(text, 9))),
    svg("text.head", { x: (width + 72) / 2, y: 294, "text-anchor": "middle" }, label(0)),
    svg("text.head", { x: 12, y: 135, "text-anchor": "middle", transform: "rotate(-90 12 135)" }, cut(label(1), 28)), dots));
    frame.table(() => valueTable("Two keys", doc, rows, jobHref));
  }

  return whenChanged(frame, (found) => {
    doc = found;
    // A drop-down that is open is left as it is.
    const names = [...doc.columns, OBJECTIVE];
    if (frame.controls.dataset.names !== names.join()) choose(names);
    frame.controls.dataset.names = names.join();
    draw();
  });
}

/** Draws again when the width is another one. */
function onWidth(node, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (node.clientWidth !== width && node.clientWidth) draw();
    width = node.clientWidth;
  }).observe(node);
}

const OBJECTIVE = "\u0000objective";
