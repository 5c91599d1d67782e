/** A choice's text, token by token: coloured by probability, with a tooltip for each. The Tab key stops here once. */

import { el, shown } from "./dom.js";
import { hideDetail, showDetail } from "./detail.js";

/** The smallest probability of each shade; a token below all of them gets the strongest shade. */
export const SHADES = [0.9, 0.7, 0.5, 0.25, 0.1, 0.01];
const PAGE = 20; // tokens

const shadeOf = (logprob) => SHADES.findIndex((least) => Math.exp(logprob) >= least);

export class TokenView {
  constructor(choice, label) {
    this.choice = choice;
    this.spans = [];
    this.numFinal = 0;
    this.element = el("div", { className: "tokens", role: "listbox", ariaLabel: label, ariaOrientation: "horizontal" });
    this.element.addEventListener("keydown", (event) => this.#move(event));
    this.element.addEventListener("focusin", (event) => this.#show(event.target, true));
    this.element.addEventListener("mouseover", (event) => this.#show(event.target, false));
    this.element.addEventListener("mouseleave", () => this.#leave());
    this.element.addEventListener("focusout", () => hideDetail());
  }

  /** Show the tokens since the last update. Only the last token can still change, when the rest of its text comes. */
  update(promptLength) {
    const { choice, spans } = this;
    const numGiven = choice.numGiven(promptLength);
    for (let number = this.numFinal; number < choice.tokens.length; number++) {
      spans[number] ??= this.#span(number, number < numGiven);
      const text = choice.points.slice(...choice.span(number)).join("");
      if (spans[number].textContent !== text) spans[number].textContent = text;
      spans[number].ariaLabel = text.trim() ? null : shown(text || choice.tokens[number]); // else it would be nameless
      spans[number].classList.toggle("breaks", text.startsWith("\n"));
    }
    const isWhole = (number) => choice.offsets[number + 1] <= choice.points.length;
    while (this.numFinal < choice.tokens.length - 1 && isWhole(this.numFinal)) this.numFinal++;
  }

  /** Underline the last characters: a stop sequence. */
  markEnd(numPoints) {
    const start = this.choice.points.length - numPoints;
    for (const [number, span] of this.spans.entries()) {
      const [from, to] = this.choice.span(number);
      if (to <= start || to === from) continue;
      const points = this.choice.points.slice(from, to);
      const before = Math.max(0, start - from);
      span.replaceChildren(points.slice(0, before).join(""), el("mark", {}, points.slice(before).join("")));
    }
  }

  #span(number, isGiven) {
    const logprob = this.choice.logprobs[number];
    const span = el("span", { className: "token", role: "option", tabIndex: number ? -1 : 0, ariaSelected: "false" });
    span.dataset.number = number;
    if (logprob !== null) span.dataset.shade = shadeOf(logprob);
    span.classList.toggle("given", isGiven);
    this.element.append(span);
    return span;
  }

  #show(target, isFocus) {
    const span = target.closest(".token");
    if (!span) return;
    if (isFocus) this.#select(span);
    showDetail(span, this.choice, Number(span.dataset.number));
  }

  /** The pointer has left: show the token that has the focus, if any. */
  #leave() {
    if (this.element.contains(document.activeElement)) this.#show(document.activeElement, false);
    else hideDetail();
  }

  #select(span) {
    for (const former of this.element.querySelectorAll("[tabindex='0']")) {
      former.tabIndex = -1;
      former.ariaSelected = "false";
    }
    span.tabIndex = 0;
    span.ariaSelected = "true";
    span.setAttribute("aria-describedby", "detail");
  }

  #move(event) {
    if (event.key === "Escape") hideDetail();
    const now = this.spans.indexOf(event.target.closest(".token"));
    const last = this.spans.length - 1;
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last, PageDown: now + PAGE, PageUp: now - PAGE };
    if (!(event.key in to) || now < 0) return;
    event.preventDefault();
    this.spans[Math.min(last, Math.max(0, to[event.key]))].focus();
  }
}

/** The legend of the shades. */
export function legend() {
  const names = [...SHADES.map((least) => `≥ ${100 * least} %`), "less"];
  const keys = names.map((name, number) => {
    const key = el("span", { className: "token" }, name);
    key.dataset.shade = number < SHADES.length ? number : -1;
    return key;
  });
  return el("p", { className: "legend" }, "Probability ", ...keys);
}
