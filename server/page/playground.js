/** The playground: wires the prompt, the settings, the two sides, the code and the history. */

import { byId, el } from "./dom.js";
import { loadModels } from "./endpoint.js";
import { bodyOf, isJson, loadFields, requestOf } from "./fields.js";
import { forget, keepKey, keptKey, linkOf, linked, past, remember } from "./keeping.js";
import { Settings } from "./settings.js";
import { Side } from "./side.js";
import { snippet } from "./snippets.js";

const BEGINNING = { max_tokens: "64", logprobs: "5", return_token_ids: "true", return_candidates: "true", stream: "true" };
const SCORING = { echo: "true", max_tokens: "0", n: "", best_of: "", stream: "" };

const [fields, models] = await Promise.all([loadFields(), loadModels()]).catch((error) => {
  byId("note").textContent = `The page could not load the server's models and fields (${error.message}). Reload the page to try again.`;
  throw error;
});
const example = fields.find(({ name }) => name === "prompt").example;
const values = { a: { model: models[0], ...BEGINNING }, b: null };
const settings = new Settings(fields, models, values, changed);
const sides = { a: new Side(byId("side-a"), refused), b: new Side(byId("side-b"), refused) };

// --- what is asked -------------------------------------------------------------------------------------------

const state = () => ({ prompt: byId("prompt").value, promptIsJson: byId("as-json").checked, ...values });

function show({ prompt, promptIsJson, a, b }) {
  byId("prompt").value = prompt;
  byId("as-json").checked = promptIsJson;
  values.a = a;
  values.b = b;
  compare(b !== null);
}

const pairsOf = (own) => requestOf(fields, own, byId("prompt").value, byId("as-json").checked);

/** The request of one side: its body, and what side.js needs to show its reply. */
function requestFor(side, changes) {
  const own = { ...values[side], ...changes };
  const pairs = pairsOf(own);
  const sent = Object.fromEntries(pairs.map(([name, json]) => [name, JSON.parse(json)]));
  const [n, bestOf] = [Number(sent.n ?? 1), Number(sent.best_of ?? 0)];
  const asked = {
    n,
    logprobs: sent.logprobs ?? null,
    stops: [sent.stop ?? []].flat(),
    isStream: sent.stream === true,
    numPrompts: Array.isArray(sent.prompt) && typeof sent.prompt[0] !== "number" ? sent.prompt.length : 1,
    hidden: bestOf > n ? `The reply has only the ${n} best of ${bestOf} candidates. To see what became of the others, set return_candidates.` : "",
  };
  const promptLength = sent.echo === true && typeof sent.prompt === "string" ? [...sent.prompt].length : 0;
  const title = settings.titleOf(side, values.b && (side === "a" ? "b" : "a"));
  return { body: bodyOf(pairs), key: byId("key").value, title, asked, promptLength };
}

async function ask(changes) {
  if (byId("as-json").checked && !isJson(byId("prompt").value)) {
    byId("note").textContent = "The prompt is not valid JSON, so it is sent as text.";
  } else byId("note").textContent = "";
  settings.accept();
  busy(true);
  remember(state());
  listPast();
  const running = (values.b ? ["a", "b"] : ["a"]).map((side) => sides[side].run(requestFor(side, changes)));
  byId("outcome").textContent = "Asking …";
  byId("outcome").textContent = (await Promise.all(running)).join(". ");
  busy(false);
}

/** Swap the buttons Complete and Stop; the new one takes over the focus. */
function busy(isBusy) {
  const [before, after] = isBusy ? [byId("complete"), byId("stop")] : [byId("stop"), byId("complete")];
  const hasFocus = document.activeElement === before;
  before.hidden = true;
  after.hidden = false;
  if (hasFocus) after.focus();
  byId("score").disabled = isBusy;
}

function refused(field) {
  settings.refuse(field);
  if (field === "prompt") byId("prompt").ariaInvalid = "true";
}

// --- what follows from it ------------------------------------------------------------------------------------

function changed() {
  byId("prompt").ariaInvalid = "false";
  const language = document.querySelector("[name=language]:checked").value;
  byId("snippet").textContent = snippet(language, pairsOf(values[settings.side]), location.origin);
}

function compare(isOn) {
  values.b = isOn ? (values.b ?? { ...values.a }) : null;
  byId("compare").ariaPressed = String(isOn);
  byId("which").hidden = byId("side-b").hidden = !isOn;
  byId("replies").classList.toggle("two", isOn);
  const side = isOn ? document.querySelector("[name=side]:checked").value : "a";
  settings.show(side);
  changed();
}

function listPast() {
  const items = past().map((one) => {
    const button = el("button", { type: "button" }, one.state.prompt.slice(0, 80) || "(empty)");
    button.addEventListener("click", () => show(one.state));
    return el("li", {}, button, ` ${one.state.a.model ?? ""}, ${new Date(one.at).toLocaleString()}`);
  });
  byId("past").replaceChildren(...items);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    byId("note").textContent = `${what} is in the clipboard.`;
  } catch {
    byId("note").textContent = `This browser denies access to the clipboard. Select ${what.toLowerCase()} and copy it.`;
  }
}

async function share() {
  history.replaceState(null, "", linkOf(state()));
  await copy(location.href, "The link in the address bar");
}

// --- events --------------------------------------------------------------------------------------------------

const on = (id, type, act) => byId(id).addEventListener(type, act);

on("ask", "submit", (event) => {
  event.preventDefault();
  if (byId("stop").hidden) ask({});
});
on("ask", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
on("stop", "click", () => Object.values(sides).forEach((side) => side.stop()));
on("score", "click", () => ask({ logprobs: values.a.logprobs || "0", ...SCORING }));
on("compare", "click", () => compare(values.b === null));
on("which", "input", (event) => {
  settings.show(event.target.value);
  changed();
});
on("share", "click", share);
on("prompt", "input", changed);
on("as-json", "input", changed);
on("key", "input", () => keepKey(byId("key").value));
on("code", "input", changed);
on("copy-code", "click", () => copy(byId("snippet").textContent, "The code"));
on("forget", "click", () => {
  forget();
  listPast();
});
addEventListener("hashchange", () => linked() && show(linked()));

byId("key").value = keptKey();
show(linked() ?? { ...state(), prompt: example });
listPast();
document.documentElement.dataset.ready = "";
