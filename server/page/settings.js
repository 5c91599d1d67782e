/** The form of the settings, made from the fields of /openapi.json, for one request or for two to compare. */

import { byId, el } from "./dom.js";
import { FIRST } from "./fields.js";

export class Settings {
  #inputs = new Map();

  /** values: what was typed, by side and field. onChange: called after every change. */
  constructor(fields, models, values, onChange) {
    Object.assign(this, { fields, models, values, onChange, side: "a" });
    for (const field of fields.filter(({ name }) => name !== "prompt")) {
      byId(FIRST.includes(field.name) ? "fields" : "more-fields").append(this.#row(field));
    }
    this.show("a");
  }

  /** Edit the settings of that side. */
  show(side) {
    this.side = side;
    for (const [name, input] of this.#inputs) {
      const value = this.values[side][name] ?? "";
      if (input.options && ![...input.options].some((option) => option.value === value)) input.append(el("option", { value }, value));
      input.value = value;
      this.#mark(input);
    }
    this.#count();
  }

  /** Show which field the server has refused. */
  refuse(name) {
    const input = this.#inputs.get(name);
    if (!input) return;
    input.ariaInvalid = "true";
    if (byId("more").contains(input)) byId("more").open = true;
  }

  accept() {
    for (const input of this.#inputs.values()) input.ariaInvalid = "false";
  }

  /** A title for a side: its model, and the fields that differ from the other side. */
  titleOf(side, other) {
    const [own, theirs] = [this.values[side], other ? this.values[other] : {}];
    const names = this.fields.map(({ name }) => name).filter((name) => name !== "model" && name !== "prompt");
    const differing = other ? names.filter((name) => (own[name] ?? "") !== (theirs[name] ?? "")) : [];
    return [own.model ?? "", ...differing.map((name) => `${name} ${own[name] || "not given"}`)].join(" · ");
  }

  #row({ name, kind, hint, example }) {
    const input = this.#input(name, kind);
    Object.assign(input, { id: `field-${name}`, name, autocomplete: "off", spellcheck: false });
    if (example !== undefined && name !== "model") input.placeholder = JSON.stringify(example);
    const change = () => {
      this.values[this.side][name] = input.value;
      input.ariaInvalid = "false";
      this.#mark(input);
      this.#count();
      this.onChange();
    };
    input.addEventListener("input", change);
    this.#inputs.set(name, input);
    const row = el("div", { className: "field" }, el("label", { htmlFor: input.id }, name), input);
    if (hint) {
      row.append(el("p", { className: "hint", id: `${input.id}-hint` }, hint));
      input.setAttribute("aria-describedby", `${input.id}-hint`);
    }
    return row;
  }

  /** Any text can be sent; the server checks it. */
  #input(name, kind) {
    if (name === "model" && this.models.length) return choose(this.models, {});
    if (kind === "boolean") return choose(["", "true", "false"], { "": "not given" });
    return el("input", { type: "text", inputMode: kind === "integer" || kind === "number" ? "decimal" : "text" });
  }

  #mark(input) {
    input.classList.toggle("set", input.value !== "");
  }

  #count() {
    const values = this.values[this.side];
    const number = this.fields.filter(({ name }) => !FIRST.includes(name) && values[name]).length;
    byId("more-set").textContent = number ? ` (${number} set)` : "";
  }
}

function choose(values, names) {
  return el("select", {}, ...values.map((value) => el("option", { value }, names[value] ?? value)));
}
