/** The status page: reads /ready, /metrics and, with an admin's key, /status/details every two seconds, and lists changes. */

import { byId, el } from "./dom.js";
import { authorization } from "./endpoint.js";
import { keepKey, keptKey } from "./keeping.js";
import { parse, total, valuesOf } from "./metrics.js";

const EVERY_MS = 2000;
const MOST_EVENTS = 100;

// Counters by model; an increase is listed as an event.
const EVENTS = {
  verbatim_engine_deaths_total: "engines ended unexpectedly",
  verbatim_engine_hangs_total: "engines hung and were killed",
  verbatim_resumed_total: "candidates continued on another engine",
};

// Of a key, by what the table calls them.
const LIMITS = {
  "requests/min": "requests_per_minute",
  "tokens/min": "tokens_per_minute",
  "at once": "concurrent_requests",
};

const number = (value) => Math.round(value).toLocaleString("en");
const rate = (value) => (value === null ? "" : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 }));

let details = null; // for admins: {keys, nodes, recent}
const seen = new Set(); // of recent
let mayAsk = true; // for the details, with the present key
let before = null; // the last reading: {at, ready, samples}

async function look() {
  const [ready, metrics] = await Promise.all([fetch("/ready"), fetch("/metrics"), askForDetails()]);
  const now = { at: performance.now(), ready: await ready.json(), samples: parse(await metrics.text()) };
  showState(now);
  showModels(now);
  showKeys(now);
  listEvents(now);
  before = now;
}

/** A key that is refused is not tried again. */
async function askForDetails() {
  if (!mayAsk) return;
  const key = byId("key").value;
  const reply = await fetch("/status/details", { headers: authorization(key) });
  const told = await reply.json();
  if (byId("key").value !== key) return; // another one meanwhile
  mayAsk = reply.ok;
  details = reply.ok ? told : null;
  const more = reply.ok ? "" : " An admin also sees earlier ones, with their causes.";
  byId("events-note").textContent = told.recent ? "" : `Since you opened this page.${more}`;
  if (told.recent) listRecent(told.recent);
  byId("keys-note").textContent = reply.ok ? "" : `Enter an admin's key above to see the keys and, in a cluster, the nodes. ${told.message}`;
}

/** The increase of a counter per second; null on the first look. */
function rise(now, name, labels) {
  if (before === null) return null;
  return (total(now.samples, name, labels) - total(before.samples, name, labels)) / ((now.at - before.at) / 1000);
}

function showState(now) {
  const { samples, ready } = now;
  byId("state").textContent = `The server is ${ready.status}`;
  byId("seen").textContent = `as of ${new Date().toLocaleTimeString()}`;
  const figures = {
    "requests being answered, including this page's": number(total(samples, "verbatim_requests_in_flight")),
    "candidates waiting": number(total(samples, "verbatim_candidates_waiting")),
    "requests so far": number(total(samples, "verbatim_requests_total")),
    "tokens generated": number(total(samples, "verbatim_completion_tokens_total")),
  };
  const items = Object.entries(figures).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  byId("figures").replaceChildren(...items);
}

function showModels(now) {
  const head = ["model", "phase", "running", "waiting", "KV cache", "tokens/s", "restarts", "deaths", "resumed"];
  const rows = Object.entries(now.ready.models).flatMap(([model, progress]) => {
    const of = (name) => total(now.samples, name, { model });
    const replicas = Object.entries(progress.replicas ?? {});
    const on = (engine) => (details?.nodes[model]?.[engine] ? ` on ${details.nodes[model][engine]}` : "");
    const whole = [
      ...engineCells(now, replicas.length ? model : model + on("0"), progress, { model_name: model }),
      number(of("verbatim_engine_restarts")),
      number(of("verbatim_engine_deaths_total")),
      number(of("verbatim_resumed_total")),
    ];
    const parts = replicas.map(([engine, one]) => [
      ...engineCells(now, `· engine ${engine}${on(engine)}`, one, { model_name: model, engine }), "", "", "",
    ]);
    if (parts.length) whole[4] = ""; // each engine has its own KV cache
    return [whole, ...parts];
  });
  fill("models", head, rows, 2);
}

/** The table cells of one engine, or of all engines of a model together. */
function engineCells(now, name, progress, labels) {
  const of = (metric) => total(now.samples, `vllm:${metric}`, labels);
  const phase = cell(phaseOf(progress), "words");
  phase.classList.toggle("bad", progress.phase !== "ready");
  const waiting = labels.engine ? 0 : total(now.samples, "verbatim_candidates_waiting", { model: labels.model_name });
  return [
    name,
    phase,
    number(progress.running ?? of("num_requests_running")),
    number(of("num_requests_waiting") + waiting),
    `${Math.round(100 * of("kv_cache_usage_perc"))} %`,
    rate(rise(now, "vllm:generation_tokens_total", labels)),
  ];
}

function phaseOf({ phase, seconds, done, total: all, detail, resuming }) {
  const parts = [all ? `${phase} ${done}/${all}` : phase, detail, resuming ? `${resuming} resuming` : ""];
  return `${parts.filter(Boolean).join(", ")}, for ${Math.round(seconds)} s`;
}

function showKeys({ samples }) {
  byId("keys").hidden = !details;
  if (!details) return;
  const head = ["key", "may", ...Object.keys(LIMITS), "requests", "refused or failed", "prompt tokens", "tokens generated"];
  const names = ["requests", "errors", "prompt_tokens", "completion_tokens"].map((name) => `verbatim_${name}_total`);
  const known = details.keys.map((key) => [key.name, mayOf(key), ...Object.values(LIMITS).map((name) => limitOf(key, name))]);
  const listed = new Set(details.keys.map(({ name }) => name));
  const others = valuesOf(samples, names[0], "key").filter((key) => !listed.has(key));
  const gone = others.map((key) => [key, key ? "is not valid any more" : "", "", "", ""]);
  const rows = [...known, ...gone].map(([key, ...cells]) => [
    key || "(no valid key)", ...cells, ...names.map((name) => number(total(samples, name, { key }))),
  ]);
  fill("keys", head, rows, 2);
}

function mayOf({ roles, models, expires, has_expired }) {
  const parts = [roles.join(", "), models ? `only ${models.join(", ")}` : "", expires ? `until ${expires}` : ""];
  return has_expired ? `has expired, after ${expires}` : parts.filter(Boolean).join("; ");
}

const limitOf = ({ limits, used }, name) =>
  limits[name] === null ? "no limit" : `${number(used[name])} of ${number(limits[name])}`;

function listEvents(now) {
  if (before === null) return;
  for (const [model, { phase }] of Object.entries(now.ready.models)) {
    if (phase !== before.ready.models[model]?.phase) note(`${model}: ${phase}`);
    if (details?.recent) continue; // which has them in the server's words
    for (const [name, what] of Object.entries(EVENTS)) {
      const more = total(now.samples, name, { model }) - total(before.samples, name, { model });
      if (more > 0) note(`${model}: ${number(more)} ${what}`);
    }
  }
}

/** What the server has counted, each once. */
function listRecent(recent) {
  const fresh = recent.filter((one) => !seen.has(JSON.stringify(one)));
  if (!seen.size) byId("events").ariaLive = "off"; // a screen reader need not read what is old
  for (const one of fresh) {
    const { at, model, engine, what } = one;
    seen.add(JSON.stringify(one));
    note(`${model}, engine ${engine}: ${what}`, new Date(1000 * at));
  }
  setTimeout(() => (byId("events").ariaLive = "polite"));
}

/** The latest is the first. */
function note(what, at = new Date()) {
  const isToday = at.toDateString() === new Date().toDateString();
  const time = el("time", { dateTime: at.toISOString() }, isToday ? at.toLocaleTimeString() : at.toLocaleString());
  const before = [...byId("events").children].find((one) => one.firstChild.dateTime <= time.dateTime);
  byId("events").insertBefore(el("li", {}, time, what), before ?? null);
  while (byId("events").children.length > MOST_EVENTS) byId("events").lastChild.remove();
}

/** numWords: columns that are words, not numbers. */
function fill(id, head, rows, numWords) {
  const named = (number) => (number < numWords ? "words" : "");
  const titles = head.map((title, at) => el("th", { scope: "col", className: named(at) }, title));
  const lines = rows.map((row) => el("tr", {}, ...row.map((one, at) => (one instanceof Node ? one : cell(one, named(at))))));
  byId(id).replaceChildren(el("thead", {}, el("tr", {}, ...titles)), el("tbody", {}, ...lines));
}

const cell = (text, className) => el("td", { className }, String(text));

async function lookAgain() {
  try {
    if (!document.hidden) await look();
  } catch (error) {
    byId("state").textContent = "The server does not answer";
    byId("seen").textContent = error.message;
  }
  document.documentElement.dataset.ready = "";
  setTimeout(lookAgain, EVERY_MS);
}

byId("key").value = keptKey();
byId("key").addEventListener("change", async () => {
  keepKey(byId("key").value);
  mayAsk = true;
  await askForDetails();
  if (before) showKeys(before);
});
lookAgain();
