/** Shows one request and its reply: the settings, the speed, the choices side by side, and an error. */

import { count, el, seconds, signed } from "./dom.js";
import { Refusal, complete } from "./endpoint.js";
import { Reply } from "./reply.js";
import { TokenView, legend } from "./tokens.js";

const RESUMING = "The engine was lost. The stream continues as soon as the next engine is ready.";

export class Side {
  #controller = null;
  #cards = [];
  #frame = null;

  /** onField: called with the name of a field that the server refused. */
  constructor(element, onField) {
    this.element = element;
    this.onField = onField;
    this.reply = new Reply();
  }

  stop() {
    this.#controller?.abort();
  }

  /** Send a request (requestFor of playground.js) and show its reply. Resolves to a sentence on the outcome; never rejects. */
  async run({ body, key, title, asked, promptLength }) {
    this.#begin(title);
    Object.assign(this, { asked, promptLength });
    const started = performance.now();
    const times = { started, first: null, last: null };
    try {
      for await (const event of complete(body, key, this.#controller.signal)) {
        if (event.requestId) this.requestId = event.requestId;
        this.#wait(event.isResuming ? RESUMING : "");
        if (!event.chunk) continue;
        times.last = performance.now();
        times.first ??= times.last;
        this.reply.add(event.chunk);
        this.#draw(times);
      }
      return this.#end(times, "Done");
    } catch (error) {
      if (error.name === "AbortError") return this.#end(times, "Stopped");
      this.#end(times, "Failed");
      return this.#fail(error);
    }
  }

  #begin(title) {
    this.#controller = new AbortController();
    this.#cards = [];
    this.reply = new Reply();
    this.requestId = "";
    this.facts = el("p", { className: "facts" }, "…");
    this.waiting = el("p", { className: "waiting", role: "status" });
    this.choices = el("div", { className: "choices" });
    this.element.replaceChildren(el("h2", {}, title), this.facts, this.waiting, this.choices);
    this.element.ariaBusy = "true";
  }

  /** Write only when the text changes: a screen reader reads it aloud each time it is written. */
  #wait(what) {
    if (this.waiting.textContent !== what) this.waiting.textContent = what;
  }

  /** Draw at most once per frame, however many chunks come. */
  #draw(times) {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#show(times);
    });
  }

  #show(times) {
    for (const choice of this.reply.choices) {
      this.#cards[choice.index] ??= this.#card(choice);
      this.#cards[choice.index].update();
    }
    this.facts.textContent = this.#facts(times);
  }

  #card(choice) {
    const name = this.#nameOf(choice.index);
    const head = el("p", { className: "card-head" });
    const view = this.asked.logprobs === null ? null : new TokenView(choice, `${name}, token by token`);
    const text = view?.element ?? el("div", { className: "text" });
    this.choices.append(el("article", { className: "card", ariaLabel: name }, head, text));
    const update = () => {
      if (view) view.update(this.promptLength);
      else text.textContent = choice.text;
      head.textContent = this.#headOf(choice, name);
    };
    return { update, view, head, text };
  }

  /** index = prompt number × n + rank. The rank is the candidate's number, unless the reply says another one. */
  #nameOf(index) {
    const number = this.reply.candidates.find((one) => one.choice === index)?.number ?? index % this.asked.n;
    return this.#named(Math.floor(index / this.asked.n), number);
  }

  #named(prompt, number) {
    const name = `Candidate ${number + 1}`;
    return this.asked.numPrompts > 1 ? `Prompt ${prompt + 1}, ${name.toLowerCase()}` : name;
  }

  #headOf(choice, name) {
    const from = this.#from(choice);
    const candidate = this.reply.candidateOf(choice);
    const mean = choice.mean(from) ?? candidate?.mean_logprob ?? null;
    const numTokens = choice.tokens.length ? choice.tokens.length - from : (candidate?.completion_tokens ?? 0);
    const parts = [
      this.reply.choices.length > 1 || candidate ? name : "",
      numTokens ? count(numTokens, "token") : "",
      mean === null ? "" : `mean ${signed(mean)}`,
      mean !== null && this.#isScored(choice) ? `perplexity ${Math.exp(-mean).toPrecision(3)}` : "",
    ];
    return parts.filter(Boolean).join(" · ");
  }

  /** Whether the whole choice is an echoed prompt. */
  #isScored(choice) {
    return choice.tokens.length > 0 && choice.numGiven(this.promptLength) === choice.tokens.length;
  }

  /** The first token that counts for the mean: after an echoed prompt, or 0 if there is nothing else. */
  #from(choice) {
    return this.#isScored(choice) ? 0 : choice.numGiven(this.promptLength);
  }

  #facts({ started, first, last }) {
    if (first === null) return "";
    const { usage } = this.reply;
    const numTokens = usage?.completion_tokens ?? this.reply.numTokens;
    const rate = this.asked.isStream && last - first > 1 ? ((numTokens - 1) / (last - first)) * 1000 : null;
    const parts = [
      count(numTokens, "token"),
      this.asked.isStream ? `first after ${seconds(first - started)}` : "",
      rate === null ? "" : `${rate.toPrecision(3)} tokens/s`,
      `${seconds(last - started)} in all`,
      usage ? `prompt of ${count(usage.prompt_tokens, "token")}` : "",
    ];
    return parts.filter(Boolean).join(" · ");
  }

  #end(times, how) {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#show(times);
    this.element.ariaBusy = "false";
    this.#wait("");
    const best = this.reply.best((choice) => this.#from(choice));
    for (const choice of this.reply.choices) this.#finish(choice, this.#cards[choice.index], choice === best, how);
    const { choices } = this.reply;
    if (choices.some((choice) => choice.tokens.length)) this.element.append(legend());
    const lost = this.reply.candidates.filter((one) => one.choice === null);
    if (lost.length) this.element.append(...this.#lost(lost));
    else if (this.asked.hidden) this.element.append(el("p", { className: "note" }, this.asked.hidden));
    if (this.requestId) this.element.append(el("p", { className: "note" }, `request ${this.requestId}`));
    return choices.length ? `${how}: ${this.facts.textContent}` : how;
  }

  #finish(choice, { view, head, text }, isBest, how) {
    const stop = choice.stopIn(this.asked.stops);
    if (stop && view) view.markEnd([...stop].length);
    else if (stop) text.replaceChildren(choice.text.slice(0, -stop.length), el("mark", {}, stop));
    const ended = stop ? `stop sequence ${JSON.stringify(stop)}` : (ENDS[choice.finish] ?? how.toLowerCase());
    if (isBest) head.append(el("span", { className: "best" }, "best"));
    head.append(el("span", { className: "end" }, ended));
  }

  /** Candidates of best_of that are not returned: a row of what is known of each. */
  #lost(candidates) {
    const ends = this.asked.stops.length ? { ...ENDS, stop: "end of text, or a stop sequence" } : ENDS; // without the text
    const items = candidates.map((one) => {
      const facts = [
        one.mean_logprob === null ? "" : `mean ${signed(one.mean_logprob)}`,
        one.given_up_after === null ? count(one.completion_tokens, "token") : "",
      ];
      const ended = one.given_up_after === null ? ends[one.finish_reason] : `given up after ${count(one.given_up_after, "token")}`;
      const name = el("b", {}, this.#named(one.prompt_index, one.number));
      return el("li", {}, name, el("span", {}, facts.filter(Boolean).join(" · ")), el("span", {}, ended));
    });
    const title = el("h3", { id: `${this.element.id}-lost` }, `Not returned: ${count(items.length, "candidate")}`);
    const list = el("ul", { className: "lost" }, ...items);
    list.setAttribute("aria-labelledby", title.id);
    return [title, list];
  }

  #fail(error) {
    const isRefusal = error instanceof Refusal;
    const title = isRefusal ? `${error.code} ${error.reason}` : "No reply";
    const message = isRefusal ? error.message : `${error.message} Does the server still run?`;
    const box = el("div", { className: "error", role: "alert" }, el("h3", {}, title), el("p", {}, message));
    this.element.insertBefore(box, this.choices);
    if (error.field) this.onField(error.field);
    return title;
  }
}

const ENDS = { length: "max_tokens reached", stop: "end of text" };
