/** The fields of a request (name, kind, range), read from /openapi.json. */

/** The fields that are always visible, in this order. All others are under "More fields". */
export const FIRST = ["model", "max_tokens", "temperature", "top_p", "n", "best_of", "logprobs", "stop", "seed", "stream"];

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const KINDS_OF_NUMBERS = /^an? (number|integer), /;

export async function loadFields() {
  const document = await (await fetch("/openapi.json")).json();
  const { properties } = document.components.schemas.CompletionRequest;
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return Object.entries(properties)
    .map(([name, schema]) => ({ name, kind: kindOf(schema), hint: hintOf(schema), example: schema.examples?.[0] }))
    .sort((left, right) => rank(left.name) - rank(right.name));
}

/** "boolean", "integer", "number", "string"; "json" for a field that may be more than one value. */
function kindOf(schema) {
  const types = (schema.anyOf ?? [schema]).map((one) => one.type ?? "object");
  return types.some((type) => type === "object" || type === "array") ? "json" : types[0];
}

function hintOf(schema) {
  const isPlain = ["boolean", "string"].includes(kindOf(schema)); // any value will do
  const rule = isPlain ? "" : (schema["x-rule"] ?? "").replace(KINDS_OF_NUMBERS, "");
  return [rule, schema.description].filter(Boolean).join("; ");
}

/**
 * What was typed, as JSON. Text that is not a number, say, is sent as a string, and the server says what is wrong.
 * Digits are sent as typed: as a JavaScript number, a seed of 64 bits would lose digits.
 */
export function jsonOf(kind, text) {
  if (kind === "boolean") return text;
  if (kind === "integer" || kind === "number") return NUMBER.test(text.trim()) ? text.trim() : JSON.stringify(text);
  if (kind === "json" && /^\s*[[{]/.test(text) && isJson(text)) return text.trim();
  return JSON.stringify(text);
}

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A request as [name, JSON] pairs, from the prompt and the typed fields. */
export function requestOf(fields, values, prompt, promptIsJson) {
  const pairs = fields
    .filter(({ name }) => name !== "prompt" && values[name])
    .map(({ name, kind }) => [name, jsonOf(kind, values[name])]);
  pairs.splice(1, 0, ["prompt", promptIsJson && isJson(prompt) ? prompt.trim() : JSON.stringify(prompt)]);
  return pairs;
}

export const bodyOf = (pairs) => `{${pairs.map(([name, json]) => `${JSON.stringify(name)}: ${json}`).join(", ")}}`;
