/** The choices of a reply, added up from the chunks of a stream or from a whole reply. */

/** One choice. Its text is kept as code points, because text_offset counts those. */
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

  /** [start, end) of a token in the text, in code points. Empty for a token that ends inside a character. */
  span(number) {
    return [this.offsets[number], this.offsets[number + 1] ?? this.points.length];
  }

  /** The id of a token, if the reply has ids. The ids of an echoed prompt come first. */
  id(number) {
    const numEchoed = this.tokens.length - this.ids.length;
    return number < numEchoed ? this.promptIds[number] : this.ids[number - numEchoed];
  }

  /** The number of tokens of an echoed prompt, whose length is given in code points. */
  numGiven(promptLength) {
    return promptLength ? this.offsets.findLastIndex((offset) => offset < promptLength) + 1 : 0;
  }

  /** Mean log-probability from that token on, or null. */
  mean(from = 0) {
    const values = this.logprobs.slice(from).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  }

  /** The one of these stop sequences that the text ends with, or "". */
  stopIn(stops) {
    return this.finish === "stop" ? (stops.find((stop) => stop && this.text.endsWith(stop)) ?? "") : "";
  }
}

export class Reply {
  choices = [];
  candidates = []; // of best_of, where the reply tells of them: those that are choices too
  usage = null;
  numTokens = 0; // an estimate until the usage comes: without logprobs, the chunks with text

  add(chunk) {
    for (const part of chunk.choices) {
      while (this.choices.length <= part.index) this.choices.push(new Choice(this.choices.length));
      this.choices[part.index].add(part);
      this.numTokens += part.logprobs ? part.logprobs.tokens.length : Number(part.text !== "");
    }
    this.usage = chunk.usage ?? this.usage;
    this.candidates = chunk.candidates ?? this.candidates;
  }

  /** What the reply tells of the candidate that a choice is. */
  candidateOf(choice) {
    return this.candidates.find((one) => one.choice === choice.index);
  }

  /** The choice that best_of would return first, or null if there is only one. */
  best(from) {
    if (this.candidates.length) {
      const best = this.candidates.filter((one) => one.choice !== null).reduce((a, b) => (b.mean_logprob > a.mean_logprob ? b : a));
      return this.choices[best.choice];
    }
    const means = this.choices.map((choice) => choice.mean(from(choice)) ?? -Infinity);
    const best = Math.max(...means);
    return this.choices.length > 1 && best > -Infinity ? this.choices[means.indexOf(best)] : null;
  }
}
