/** The choices that a stream adds up to, or a whole reply: it is the fold of its stream. */

/** Text is kept as code points, which is what text_offset counts. */
export class Choice {
  constructor(index) {
    Object.assign(this, { index, points: [], tokens: [], logprobs: [], tops: [], offsets: [], finish: null });
    Object.assign(this, { ids: [], promptIds: [] });
  }

  add({ text, logprobs, finish_reason, token_ids, prompt_token_ids }) {
    for (const point of text) this.points.push(point);
    if (logprobs) {
      this.tokens.push(...logprobs.tokens);
      this.logprobs.push(...logprobs.token_logprobs);
      this.tops.push(...logprobs.top_logprobs);
      this.offsets.push(...logprobs.text_offset);
    }
    this.ids.push(...(token_ids ?? []));
    this.promptIds.push(...(prompt_token_ids ?? []));
    this.finish = finish_reason ?? this.finish;
  }

  get text() {
    return this.points.join("");
  }

  /** Of one token: from where to where in the text. A token inside a character has none of it. */
  span(number) {
    return [this.offsets[number], this.offsets[number + 1] ?? this.points.length];
  }

  /** The id of a token, where the reply has ids. Those of an echoed prompt come first. */
  id(number) {
    const numEchoed = this.tokens.length - this.ids.length;
    return number < numEchoed ? this.promptIds[number] : this.ids[number - numEchoed];
  }

  /** Tokens of an echoed prompt of that many code points. */
  numGiven(promptLength) {
    return promptLength ? this.offsets.findLastIndex((offset) => offset < promptLength) + 1 : 0;
  }

  /** Mean log-probability from one token on, or null. */
  mean(from = 0) {
    const values = this.logprobs.slice(from).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  }

  /** The stop sequence that the text ends with: that of these, if one. */
  stopIn(stops) {
    return this.finish === "stop" ? (stops.find((stop) => stop && this.text.endsWith(stop)) ?? "") : "";
  }
}

export class Reply {
  choices = [];
  usage = null;
  numTokens = 0; // as far as can be told before the usage comes: without logprobs, chunks with text

  add(chunk) {
    for (const part of chunk.choices) {
      while (this.choices.length <= part.index) this.choices.push(new Choice(this.choices.length));
      this.choices[part.index].add(part);
      this.numTokens += part.logprobs ? part.logprobs.tokens.length : Number(part.text !== "");
    }
    this.usage = chunk.usage ?? this.usage;
  }

  /** The candidate that best_of would return first, or null where there is nothing to choose. */
  best(from) {
    const means = this.choices.map((choice) => choice.mean(from(choice)) ?? -Infinity);
    const best = Math.max(...means);
    return this.choices.length > 1 && best > -Infinity ? this.choices[means.indexOf(best)] : null;
  }
}
