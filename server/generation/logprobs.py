"""Log-probabilities of a choice: as they come from an engine, and as the arrays of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from server.engine.base import TopLogprobs

MINUS_INFINITY = -9999.0  # JSON has no infinity; this is OpenAI's value


class Logprobs(msgspec.Struct, gc=False):  # made for each token, as Delta is
    """Log-probabilities of tokens in a row. names: of every token id. text_offset: where each begins, in
    characters of the returned text. first_id: a token before those of top, which has no values: the first one
    of a prompt.

    They stay as the engine gives them until the reply is written, because that is the cheapest to add up.
    """

    names: Sequence[str]
    top: TopLogprobs
    text_offset: list[int]
    first_id: int | None = None

    def copy(self) -> Logprobs:
        top = TopLogprobs(self.top.width, [*self.top.token_ids], [*self.top.logprobs])
        return Logprobs(self.names, top, [*self.text_offset], self.first_id)

    def extend(self, later: Logprobs) -> None:
        self.top.extend(later.top)
        self.text_offset += later.text_offset

    def append(self, top: TopLogprobs, position: int, offset: int) -> None:
        """Add one position of an engine's output."""
        start, end = position * top.width, (position + 1) * top.width
        self.top.token_ids += top.token_ids[start:end]
        self.top.logprobs += top.logprobs[start:end]
        self.text_offset.append(offset)

    def arrays(self) -> dict[str, list[Any]]:
        """The four arrays of a reply, with an entry per token. An entry of top_logprobs is the k most likely
        tokens, and then the sampled one unless it is one of them."""
        names, width, values = self.names, self.top.width, self.top.logprobs
        if values and not min(values) >= MINUS_INFINITY:  # NaN is not either
            values = [max(value, MINUS_INFINITY) for value in values]
        tokens = [names[token_id] for token_id in self.top.token_ids]
        if len(tokens) == width and self.first_id is None:  # one token, as in most chunks: half the time
            entry = dict(zip(tokens[1:], values[1:], strict=False))
            entry[tokens[0]] = values[0]
            return _named(tokens[:1], values[:1], [entry], self.text_offset)
        sampled, own = tokens[::width], values[::width]
        entries: list[Any]
        if width == 1:
            entries = [{token: value} for token, value in zip(sampled, own, strict=True)]
        else:
            entries = [
                dict(zip(tokens[k + 1 : k + width], values[k + 1 : k + width], strict=True))
                for k in range(0, len(tokens), width)
            ]
            for entry, token, value in zip(entries, sampled, own, strict=True):
                entry[token] = value
        if self.first_id is None:
            return _named(sampled, own, entries, self.text_offset)
        return _named([names[self.first_id], *sampled], [None, *own], [None, *entries], self.text_offset)


def _named(tokens: list[str], own: list[Any], entries: list[Any], offsets: list[int]) -> dict[str, list[Any]]:
    return {"tokens": tokens, "token_logprobs": own, "top_logprobs": entries, "text_offset": offsets}
