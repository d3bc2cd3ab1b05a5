/** What the address shows: #/, #/c/NAME, #/c/NAME/jobs?state=failed, #/c/NAME/jobs/7. */

/** @typedef {{campaign: string|null, view: "campaigns"|"campaign"|"jobs"|"job", id: number|null, query: URLSearchParams}} Route */

/** @returns {Route} */
export function routeOf(hash) {
  const [path, words] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const query = new URLSearchParams(words ?? "");
  if (parts[0] !== "c" || !parts[1]) return { campaign: null, view: "campaigns", id: null, query };
  const view = parts[2] !== "jobs" ? "campaign" : parts[3] ? "job" : "jobs";
  return { campaign: parts[1], view, id: view === "job" ? Number(parts[3]) : null, query };
}

/** @param {Object<string, string|string[]>} [query] */
export function hrefOf(campaign, rest = "", query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") words.append(name, one);
  }
  const text = words.toString();
  return `#/c/${encodeURIComponent(campaign)}${rest}${text ? `?${text}` : ""}`;
}
