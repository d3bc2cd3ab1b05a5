/** The way to the server: documents, events and actions. All addresses are relative, so that any prefix works. */

/** @type {{read_write: boolean, csrf: string|null, version: string}} */
export const session = { read_write: false, csrf: null, version: "" };

/** The error of a request, with the server's sentence. */
export class RequestError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** @param {string} path below api/ @param {Object<string, any>} [query] arrays repeat their name */
export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") words.append(name, one);
    }
  }
  const text = words.toString();
  return `api/${path}${text ? `?${text}` : ""}`;
}

/** Path of something of a campaign. */
export const of = (campaign, path) => `c/${encodeURIComponent(campaign)}/${path}`;

/** @returns {Promise<any>} Raises RequestError. */
export async function ask(path, query, options = {}) {
  let reply;
  try {
    reply = await fetch(address(path, query), { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "queue-eval web does not answer; is it still running?");
  }
  const document = await reply.json().catch(() => null);
  if (reply.ok && document !== null) return document;
  throw new RequestError(reply.status, document?.error ?? (reply.status === 401 || reply.status === 403
    ? "This page needs its token; open the address that queue-eval web has printed."
    : `queue-eval web answers with status ${reply.status}.`));
}

export async function openSession() {
  Object.assign(session, await ask("session"));
}

/** @param {string} campaign @param {{action: string, ids?: number[], group?: string, worker?: string}} body */
export function act(campaign, body) {
  return ask(of(campaign, "actions"), {}, {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf ?? "" },
  });
}

const AGAIN_MS = 3000;

/**
 * Follows events until it is closed. It connects again by itself.
 * @param {Object<string, (doc: any) => void>} takers by the type of the event; `open` and `lost` too
 * @returns {() => void} closes it
 */
export function follow(path, query, takers) {
  let source = null, timer = null;

  function open() {
    source = new EventSource(address(path, query));
    source.onopen = () => takers.open?.();
    source.onerror = () => {
      takers.lost?.();
      // The browser tries again by itself, unless the answer was an error.
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    };
    for (const [kind, take] of Object.entries(takers)) {
      if (kind !== "open" && kind !== "lost") source.addEventListener(kind, (event) => take(JSON.parse(event.data)));
    }
  }

  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
