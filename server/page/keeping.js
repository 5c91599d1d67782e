/** What outlasts a request: the link, which has no key; the history, in this browser; the key, in this tab. */

const HISTORY = "verbatim.history";
const KEY = "verbatim.key";
const MOST = 30; // requests

/** In the part after #, which browsers send to no server. */
export function linkOf(state) {
  return `${location.origin}${location.pathname}#${encodeURIComponent(JSON.stringify(state))}`;
}

/** The state that the page's address has, or null where it has none that can be read. */
export function linked() {
  try {
    return stateOf(JSON.parse(decodeURIComponent(location.hash.slice(1))));
  } catch {
    return null;
  }
}

/** Of what somebody else wrote: texts alone. Raises where it is something else. */
function stateOf({ prompt, promptIsJson, a, b }) {
  const texts = (values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]));
  return { prompt: String(prompt), promptIsJson: promptIsJson === true, a: texts(a), b: b ? texts(b) : null };
}

export function past() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY) ?? "[]").map(({ at, state }) => ({ at, state: stateOf(state) }));
  } catch {
    return [];
  }
}

/** Newest first. The same request again moves to the front. */
export function remember(state) {
  const text = JSON.stringify(state);
  const others = past().filter((one) => JSON.stringify(one.state) !== text);
  try {
    localStorage.setItem(HISTORY, JSON.stringify([{ at: Date.now(), state }, ...others].slice(0, MOST)));
  } catch {
    // No storage, or a full one: then there is no history.
  }
}

export const forget = () => localStorage.removeItem(HISTORY);

/** sessionStorage: it survives a reload, and ends with the tab. */
export const keptKey = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
