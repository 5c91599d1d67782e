/** What is kept: a link (without the API key), the history (in this browser), and the key (in this tab). */

const HISTORY = "verbatim.history";
const KEY = "verbatim.key";
const MOST = 30; // requests

/** The state goes into the part after #, which browsers do not send to a server. */
export function linkOf(state) {
  return `${location.origin}${location.pathname}#${encodeURIComponent(JSON.stringify(state))}`;
}

/** The state in the page's address, or null if there is none or it cannot be read. */
export function linked() {
  try {
    return stateOf(JSON.parse(decodeURIComponent(location.hash.slice(1))));
  } catch {
    return null;
  }
}

/** Checks a state that somebody else may have written: every value becomes text. Throws if it has another form. */
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

/** Add a request to the history, newest first. A repeated one moves to the front. */
export function remember(state) {
  const text = JSON.stringify(state);
  const others = past().filter((one) => JSON.stringify(one.state) !== text);
  try {
    localStorage.setItem(HISTORY, JSON.stringify([{ at: Date.now(), state }, ...others].slice(0, MOST)));
  } catch {
    // Without storage, or with a full one, there is no history.
  }
}

export const forget = () => localStorage.removeItem(HISTORY);

/** sessionStorage: it survives a reload, and ends with the tab. */
export const keptKey = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
