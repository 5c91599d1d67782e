/** Makes elements, and formats numbers for people. */

/** An element with properties, and children that are elements or text. */
export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

export const signed = (number) => number.toFixed(3).replace("-", "−");

/** Text with visible signs for white space. */
export const shown = (name) => name.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(no text)";

export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "100 %";
  return share < 0.01 ? "< 0.01 %" : `${share.toPrecision(share < 1 ? 1 : 3)} %`;
}
