// What every page needs: the status line, requests that are sent until they arrive, and identifiers.

const LONGEST_WAIT_S = 30;
const TIMEOUT_MS = 20000;

export const find = (selector, inside = document) => inside.querySelector(selector);
export const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

const MESSAGES = JSON.parse(find("meta[name=messages]")?.content ?? "{}");

/** A message in the language of the page; values.name stands for %(name)s in it. */
export function _(message, values = {}) {
  return (MESSAGES[message] ?? message).replace(/%\((\w+)\)s/g, (_placeholder, name) => values[name]);
}

/** Show a text in the status line, which screen readers read out. */
export function say(text) {
  find("#status").textContent = text;
}

/** Make an element, with properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A random UUID; crypto.randomUUID is missing where a page came over plain http. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * Send JSON until the server has answered it for good; returns {status, data}.
 * Without a connection, while the server is down, and after a log-out it waits, says so, and tries again.
 */
export async function post(path, body) {
  return persist(async () => {
    const headers = { "Content-Type": "application/json", "X-CSRF-Token": find("meta[name=csrf]").content };
    const response = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
    const data = await response.json().catch(() => ({}));
    const outdated = response.status === 403 && data.field === "csrf";
    return { status: outdated ? 401 : response.status, data };
  });
}

/** Get a page of ours, as a document; with the same patience. */
export async function getPage(address) {
  const { page } = await persist(async () => {
    const response = await request(address);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    return { status: new URL(response.url).pathname === "/login" ? 401 : response.status, page };
  });
  return page;
}

/** Show the page at an address in place of this one, without loading it entirely. */
export async function showPage(address) {
  const page = await getPage(address);
  document.title = page.title;
  // A copy: media of a parsed page never start to load.
  find("main").replaceWith(document.importNode(find("main", page), true));
  scrollTo(0, 0);
}

function request(path, options = {}) {
  return fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
}

async function persist(attempt) {
  for (let seconds = 1; ; seconds = Math.min(2 * seconds, LONGEST_WAIT_S)) {
    const answer = await attempt().catch(() => ({ status: 0 }));
    if (answer.status === 401) {
      say(_("You are logged out. Log in in another tab; your answer is kept here and sent then."));
    } else if (answer.status === 0 || answer.status === 429 || answer.status >= 500) {
      say(_("No connection to the server. Nothing is lost: trying again in %(seconds)s s.", { seconds }));
    } else {
      return answer;
    }
    await new Promise((done) => setTimeout(done, seconds * 1000));
    if (answer.status === 401) await renewToken();
  }
}

/** After a new log-in the forms of this page need the new session's token. */
async function renewToken() {
  const response = await request("/guide").catch(() => null);
  if (response === null) return;
  const token = find("meta[name=csrf]", new DOMParser().parseFromString(await response.text(), "text/html"));
  if (token !== null) find("meta[name=csrf]").content = token.content;
}
