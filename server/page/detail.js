/** The tooltip of one token: its probability, its bytes, and the most likely alternatives. */

import { byId, el, percent, shown, signed } from "./dom.js";

const GAP = 6; // pixels between the token and its detail

export function showDetail(span, choice, number) {
  const detail = byId("detail");
  detail.replaceChildren(...contents(choice, number));
  detail.hidden = false;
  place(detail, span.getClientRects()[0] ?? span.getBoundingClientRect());
}

export function hideDetail() {
  byId("detail").hidden = true;
}

function contents(choice, number) {
  const [name, logprob, top] = [choice.tokens[number], choice.logprobs[number], choice.tops[number]];
  const head = el("p", { className: "detail-head" }, el("code", {}, shown(name)));
  const bytes = el("p", { className: "bytes" }, `bytes ${bytesOf(name)}`);
  if (choice.id(number) !== undefined) bytes.prepend(`id ${choice.id(number)} · `);
  if (logprob === null) return [head, el("p", {}, "The first token of a prompt has no probability."), bytes];
  head.append(el("b", {}, percent(logprob)));
  const parts = [head, el("p", {}, `log-probability ${signed(logprob)}`), bytes];
  const others = Object.entries(top ?? {}).sort(([, left], [, right]) => right - left);
  if (others.length > 1) parts.push(alternatives(others, name));
  return parts;
}

function alternatives(others, chosen) {
  const rows = others.map(([name, logprob]) => {
    const bar = el("span", { className: "share" });
    bar.style.setProperty("--share", Math.exp(logprob));
    const row = el("tr", {}, el("td", {}, el("code", {}, shown(name))), el("td", {}, bar), el("td", {}, percent(logprob)));
    row.classList.toggle("chosen", name === chosen);
    return row;
  });
  return el("table", {}, el("caption", {}, "Most likely tokens here"), el("tbody", {}, ...rows));
}

/** The bytes of a token in hexadecimal. A token that is not whole UTF-8 has them in its name. */
export function bytesOf(name) {
  if (/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return name.slice("bytes:\\x".length).replaceAll("\\x", " ");
  return Array.from(new TextEncoder().encode(name), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** Place the tooltip below the token, or above it if there is no room, inside the window. */
function place(detail, token) {
  const { width, height } = detail.getBoundingClientRect();
  const { clientWidth, clientHeight } = document.documentElement;
  const fits = token.bottom + GAP + height < clientHeight || token.top < height + GAP;
  const left = Math.max(GAP, Math.min(token.left, clientWidth - width - GAP));
  detail.style.left = `${left + scrollX}px`;
  detail.style.top = `${(fits ? token.bottom + GAP : token.top - height - GAP) + scrollY}px`;
}
