/** A table of jobs that the server filters, sorts and pages. */

import { el, keepFocus, put, setText } from "./dom.js";
import { count, duration, jobs, number, shown, time } from "./formats.js";
import { hrefOf } from "./route.js";
import { ask, of, session } from "./session.js";
import { STATES, badge } from "./states.js";

const LIMIT = 50;
const MOST_KEYS = 8;
const REFRESH_MS = 2000;

/**
 * @param {import("./route.js").Route} route
 * @param {{onAction: (body: Object, asked: string) => Promise<void>, onTrouble: (error: Error) => void}} options
 */
export function jobTable(route, { onAction, onTrouble }) {
  const { campaign } = route;
  const wanted = {
    state: route.query.get("state") ?? "", where: route.query.getAll("where"), group: route.query.get("group") ?? "",
    sort: route.query.get("sort") ?? "", after: route.query.get("after") ?? "",
  };
  const picked = new Set();
  const error = el("p.trouble", { role: "alert", hidden: true });
  const told = el("p.quiet", { "aria-live": "polite" });
  const holder = el("div"), pages = el("nav.pages", { "aria-label": "Pages" }), bulk = el("div.controls");
  const node = el("section.jobs", { "aria-label": "Jobs" }, filters(), error, el("div.above", {}, told, bulk), holder, pages);
  let timer = null, drawnAt = 0, isClosed = false, rows = [], busy = false;

  const go = (changes) => {
    location.hash = hrefOf(campaign, "/jobs", { ...wanted, after: "", ...changes });
  };

  function filters() {
    const condition = el("input", { type: "text", placeholder: "lr<0.01", "aria-describedby": "where-help", size: 18, name: "where" });
    return el("form.filters", { onsubmit: (event) => {
      event.preventDefault();
      if (condition.value.trim()) go({ where: [...wanted.where, condition.value.trim()] });
    } },
    el("div.state-links", { role: "group", "aria-label": "State" }, ["", ...STATES].map((state) =>
      el("a.chip", { href: hrefOf(campaign, "/jobs", { ...wanted, after: "", state }), "aria-current": wanted.state === state ? "true" : null },
        state ? badge(state) : "all"))),
    el("label.choice", {}, el("span", {}, "Only where"), condition),
    el("button", { type: "submit" }, "Add"),
    el("span.quiet", { id: "where-help" }, "a key or column, one of < <= > >= = != ~, a value"),
    el("ul.chips", {}, wanted.where.map((text, i) => chip(text, () => go({ where: wanted.where.filter((_, at) => at !== i) }))),
      wanted.group ? chip(`error: ${wanted.group}`, () => go({ group: "" })) : null));
  }

  function chip(text, drop) {
    return el("li.chip", {}, text, " ", el("button.plain", { type: "button", "aria-label": `Remove ${text}`, onclick: drop }, "✕"));
  }

  async function load() {
    clearTimeout(timer);
    timer = null;
    if (busy || isClosed) return;
    busy = true;
    try {
      const page = await ask(of(campaign, "jobs"), { ...wanted, limit: LIMIT });
      if (isClosed) return;
      error.hidden = true;
      rows = page.rows;
      keepFocus(holder, () => put(holder, drawn(page)));
      tell(page);
    } catch (trouble) {
      error.hidden = false;
      setText(error, trouble.message);
      if (!(trouble.status >= 400 && trouble.status < 500)) onTrouble(trouble);
    } finally {
      busy = false;
      drawnAt = Date.now();
    }
  }

  function tell(page) {
    const number = typeof page.total === "number" ? jobs(page.total) : rows.length ? `${jobs(rows.length)} on this page`
      : page.next ? "No job on this page matches." : "No job matches.";
    setText(told, page.note ? `${number}; ${page.note}` : number);
    put(pages, wanted.after ? el("a.button", { href: hrefOf(campaign, "/jobs", { ...wanted, after: "" }) }, "First page") : null,
      page.next ? el("a.button", { href: hrefOf(campaign, "/jobs", { ...wanted, after: page.next }) }, "Next page") : null);
    drawBulk();
  }

  function drawBulk() {
    if (!session.read_write) return;
    const ids = [...picked];
    const button = (action, label, body, asked) => el("button", { type: "button", onclick: () => onAction({ action, ...body }, asked).then(load) }, label);
    put(bulk, ids.length ? [["retry", "Retry"], ["stop", "Stop"], ["cancel", "Cancel"]].map(([action, label]) =>
      button(action, `${label} ${count(ids.length)} chosen`, { ids }, `${label} ${jobs(ids.length)}?`)) : null,
    !ids.length && wanted.group ? button("retry", "Retry this group", { group: wanted.group }, "Retry all jobs of this group?") : null,
    !ids.length && !wanted.group && wanted.state === "failed" && !wanted.where.length ? button("retry", "Retry all failed", {}, "Retry all failed jobs?") : null);
  }

  function drawn(page) {
    const names = [...new Set(page.rows.flatMap((row) => Object.keys(row.config ?? {})))];
    const keys = names.slice(0, MOST_KEYS);
    const hasErrors = page.rows.some((row) => row.error_line || row.cause);
    const isNumber = (key) => page.rows.some((row) => typeof row.config?.[key] === "number");
    const heads = [
      head("id", "Job", true), head("state", "State"), hasErrors ? el("th", { scope: "col" }, "Error") : null,
      head("objective", "Objective", true), ...keys.map((key) => head(`p:${key}`, key, isNumber(key))),
      head("run_s", "Ran", true), head("attempts", "Attempts", true), head("worker", "Worker"), head("finished_at", "Finished"),
    ];
    if (session.read_write) heads.unshift(el("th", { scope: "col" }, el("span.unseen", {}, "Chosen")));
    return el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Table of jobs" }, el("table", {},
      el("caption.unseen", {}, "Jobs"), el("thead", {}, el("tr", {}, heads)),
      el("tbody", {}, page.rows.map((row) => drawnRow(row, keys, hasErrors)))));
  }

  function head(name, label, isNumber = false) {
    const direction = wanted.sort === name ? "ascending" : wanted.sort === `-${name}` ? "descending" : "none";
    const next = direction === "ascending" ? `-${name}` : direction === "descending" ? "" : name;
    return el(isNumber ? "th.number" : "th", { scope: "col", "aria-sort": direction }, el("button.sort", { type: "button", onclick: () => go({ sort: next }) },
      label, el("span", { "aria-hidden": "true" }, direction === "ascending" ? " ↑" : direction === "descending" ? " ↓" : "")));
  }

  function drawnRow(row, keys, hasErrors) {
    const objective = row.objective;
    return el("tr", {},
      session.read_write ? el("td", {}, el("input", { type: "checkbox", "aria-label": `Job ${row.id}`, checked: picked.has(row.id), onchange: (event) => {
        event.target.checked ? picked.add(row.id) : picked.delete(row.id);
        drawBulk();
      } })) : null,
      el("td.number", {}, el("a", { href: hrefOf(campaign, `/jobs/${row.id}`) }, row.id)),
      el("td", {}, badge(row.state)),
      hasErrors ? el("td.error", {}, row.error_line ? shortened(row.error_line, 120) : row.cause ?? "") : null,
      el("td.number", {}, typeof objective === "number" ? number(objective, 6) : shortened(objective)),
      keys.map((key) => typeof row.config?.[key] === "number" ? el("td.number", {}, number(row.config[key]))
        : el("td", {}, shortened(row.config?.[key]))),
      el("td.number", {}, duration(row.run_s)), el("td.number", {}, row.attempts), el("td", {}, row.worker ?? "–"),
      el("td", {}, time(row.finished_ms)));
  }

  load();
  return {
    node,
    /** Something has changed in the campaign. */
    changed() {
      if (timer === null) timer = setTimeout(load, Math.max(0, drawnAt + REFRESH_MS - Date.now()));
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

function shortened(value, most = 40) {
  if (value === null || value === undefined) return "–";
  const text = shown(value);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
