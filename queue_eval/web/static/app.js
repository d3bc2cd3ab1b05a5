/** The live view: what the address asks for, and the events that keep it up to date. */

import { ask as askUser, say } from "./dialogs.js";
import { el, put, select, setText, table } from "./dom.js";
import { count, keyName } from "./formats.js";
import { jobPage } from "./job_page.js";
import { jobTable } from "./job_table.js";
import { sentenceOf } from "./overview.js";
import { panels } from "./panels.js";
import { hrefOf, routeOf } from "./route.js";
import { act, ask, follow, of, openSession, session } from "./session.js";
import { themeSwitch } from "./theme.js";

const SPEAK_EVERY_MS = 15000;
const SAMPLE_EVERY_MS = 10000;
const STALE_MS = 4000;

const main = document.getElementById("main");
const trail = document.getElementById("trail");
const speech = document.getElementById("speech");
const link = document.getElementById("link");
const trouble = document.getElementById("trouble");

/** What closes the view that is shown. @type {Array<() => void>} */
let closing = [];
let spoken = { text: "", at: 0 };

/** The state in a live region: not each second, or nobody can listen. */
function speak(text) {
  if (text === spoken.text || Date.now() - spoken.at < SPEAK_EVERY_MS) return;
  spoken = { text, at: Date.now() };
  setText(speech, text);
}

function complain(text) {
  trouble.hidden = !text;
  setText(trouble, text ?? "");
}

/** The takers that every view has. */
function common(takers) {
  let lost = null;
  return {
    open() {
      clearTimeout(lost);
      lost = null;
      setText(link, "live");
      link.className = "link live";
    },
    lost() {
      lost ??= setTimeout(() => {
        setText(link, "not connected; trying again");
        link.className = "link lost";
      }, STALE_MS);
    },
    away: (doc) => complain(doc.sentence),
    gone: (doc) => complain(doc.sentence ?? "This campaign was purged."),
    ...takers,
  };
}

/**
 * Follows the events of a campaign for the view that is shown.
 * @returns {(takers: Object|null, more?: Object) => void} begins with these takers; later with more in the query
 */
function follower(campaign, query) {
  let close = () => {}, takers = {};
  closing.push(() => close());
  return (found, more = {}) => {
    close();
    takers = found ?? takers;
    close = follow(of(campaign, "events"), { ...query, ...more }, common(takers));
  };
}

/** Calls `work` at most every `gap` ms, and once more for what has come in between. */
function atMost(gap, work) {
  let timer = null, last = -Infinity;
  closing.push(() => clearTimeout(timer));
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      last = performance.now();
      work();
    }, Math.max(0, last + gap - performance.now()));
  };
}

function show(title, crumbs, ...children) {
  put(trail, crumbs.map(([label, href], i) => el("li", {}, href ? el("a", { href }, label) : el("span", { "aria-current": i === crumbs.length - 1 ? "page" : null }, label))));
  document.title = `${title} – queue-eval`;
  put(main, el("h1", {}, title), ...children);
}

/** @param {string} campaign */
function actor(campaign) {
  return async (body, asked) => {
    if (asked && !await askUser(asked)) return;
    try {
      const reply = await act(campaign, body);
      say(reply.sentence ?? "Done.");
    } catch (error) {
      say(error.message, true);
    }
  };
}

// ------------------------------------------------------------------------------------------------------

function campaignsView() {
  const holder = el("div");
  show("Campaigns", [["Campaigns"]], holder);
  const draw = (doc) => {
    complain(null);
    const rows = Array.isArray(doc) ? doc : doc.campaigns;
    put(holder, rows.length ? table("Campaigns", ["Campaign", "Function", "Running", "Waiting", "Succeeded", "Failed", "Cancelled", "State"], rows.map((row) => [
      el("a", { href: hrefOf(row.campaign ?? row.name) }, row.campaign ?? row.name), row.function ?? "–",
      ...[row.counts?.running, (row.counts?.pending ?? 0) + (row.counts?.scheduled ?? 0), row.counts?.succeeded, row.counts?.failed, row.counts?.cancelled]
        .map((n) => ({ isNumber: true, text: count(n) })),
      row.paused ? "paused" : row.state ?? "",
    ])) : el("p.nothing", {}, "There is no campaign yet. queue-eval run, or an Evaluator in Python, makes one."));
  };
  ask("campaigns").then(draw, (error) => complain(error.message));
  closing.push(follow("events", {}, common({ campaigns: draw })));
}

function campaignView(route) {
  const { campaign } = route;
  const chosen = { key: route.query.get("key"), direction: route.query.get("direction") ?? "max" };
  const followed = follower(campaign, chosen);
  const onAction = actor(campaign);
  const choices = el("div.controls"), commands = el("div.controls");
  const drawn = panels({
    jobHref: (id) => hrefOf(campaign, `/jobs/${id}`),
    openJob: (id) => { location.hash = hrefOf(campaign, `/jobs/${id}`); },
    jobsHref: (query) => hrefOf(campaign, "/jobs", query),
    onName: (name) => followed(null, { name }),
    ...(session.read_write ? {
      onRetry: (body) => onAction({ action: "retry", ...body }, body.group ? `Retry all jobs that ended with “${body.group}”?` : "Retry all failed jobs?"),
      onDrain: (worker) => onAction({ action: "drain", worker }, `Drain worker ${worker}? It finishes what it runs, and takes nothing more.`),
    } : {}),
  });
  show(campaign, [["Campaigns", "#/"], [campaign]], el("div.above", {}, choices, commands), drawn.node);
  const sample = atMost(SAMPLE_EVERY_MS, () => ask(of(campaign, "sample"), chosen).then((doc) => drawn.update("sample", doc), () => {}));

  let keys = "", paused = null;

  function controls(doc) {
    const now = JSON.stringify([doc.keys, doc.key]);
    if (now !== keys) {
      keys = now;
      const choose = (change) => { location.hash = hrefOf(campaign, "", { ...chosen, ...change }); };
      put(choices, doc.keys.length ? [
        doc.keys.length > 1 ? select("Objective", doc.keys.map((key) => [key, keyName(key)]), chosen.key ?? doc.key ?? "", (key) => choose({ key })) : null,
        select("Best is", [["max", "the highest"], ["min", "the lowest"]], chosen.direction, (direction) => choose({ direction })),
      ] : null, el("a.button", { href: hrefOf(campaign, "/jobs") }, "All jobs"));
    }
    if (session.read_write && paused !== doc.paused) {
      paused = doc.paused;
      const [action, label] = paused ? ["resume", "Resume"] : ["pause", "Pause"];
      put(commands, el("button", { type: "button", onclick: () => onAction({ action }) }, label));
    }
  }

  function overview(doc) {
    complain(null);
    controls(doc);
    drawn.update("overview", doc);
    const finished = doc.counts.succeeded + doc.counts.failed + doc.counts.cancelled;
    document.title = `${doc.planned ? `${Math.floor(100 * finished / doc.planned)} % ` : ""}${campaign} – queue-eval`;
    speak(sentenceOf(doc));
  }

  ask(of(campaign, "overview"), chosen).then(overview, (error) => complain(error.message));
  followed({
    overview,
    course(doc) {
      drawn.update("course", doc);
      sample();
    },
    curves: (doc) => drawn.update("curves", doc),
    slots: (doc) => drawn.update("slots", doc),
  });
}

function jobsView(route) {
  const { campaign } = route;
  const shown = jobTable(route, { onAction: actor(campaign), onTrouble: (error) => complain(error.message) });
  show(`Jobs of ${campaign}`, [["Campaigns", "#/"], [campaign, hrefOf(campaign)], ["Jobs"]], shown.node);
  closing.push(() => shown.close());
  let counts = null;
  follower(campaign, { panels: "overview" })({
    overview(doc) {
      complain(null);
      const now = JSON.stringify(doc.counts);
      if (counts !== null && counts !== now) shown.changed();
      counts = now;
    },
  });
}

function jobView(route) {
  const { campaign, id } = route;
  const followed = follower(campaign, { panels: "job", job: id });
  const shown = jobPage(id, { onAction: actor(campaign), onName: (name) => followed(null, { name }) });
  const take = (doc) => {
    complain(null);
    shown.update(doc);
  };
  show(`Job ${id}`, [["Campaigns", "#/"], [campaign, hrefOf(campaign)], ["Jobs", hrefOf(campaign, "/jobs")], [`Job ${id}`]], shown.node);
  ask(of(campaign, `jobs/${id}`)).then(take, (error) => complain(error.message));
  followed({ job: take });
}

const VIEWS = { campaigns: campaignsView, campaign: campaignView, jobs: jobsView, job: jobView };

function navigate() {
  for (const close of closing) close();
  closing = [];
  complain(null);
  const route = routeOf(location.hash);
  const before = main.dataset.view;
  main.dataset.view = `${route.campaign ?? ""}/${route.view}`;
  VIEWS[route.view](route);
  // To somebody who cannot see it, a new view begins at its heading; a new page of a table does not.
  if (before && before !== main.dataset.view) {
    const head = main.querySelector("h1");
    head.tabIndex = -1;
    head.focus();
    scrollTo(0, 0);
  }
}

themeSwitch(document.getElementById("theme"));
try {
  await openSession();
  setText(document.getElementById("mode"), session.read_write ? "" : "read-only");
  addEventListener("hashchange", navigate);
  navigate();
} catch (error) {
  complain(error.message);
}
