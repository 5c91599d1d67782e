"""EngineOutput -> Delta, one object per candidate; and the fold of deltas that is the whole reply.

Stream and reply are made from the same deltas, so they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, FinishReason, TopLogprobs
from server.generation.logprobs import Logprobs
from server.text.detokenizer import Detokenizer
from server.text.stops import StopMatcher
from server.text.tokenizer import Tokenizer


class Delta(msgspec.Struct, gc=False):  # made for each token; it takes a third of a dataclass's time to make
    """What is new about a choice. num_tokens: generated for it, without the prompt's. token_ids: of these, if
    asked for; prompt_token_ids: with the choice's first delta.

    The text is empty while a character is incomplete, or while the text may be the start of a stop sequence.
    """

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    num_tokens: int = 0
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


@dataclass(slots=True)
class Choice:
    """A choice, added up from deltas."""

    index: int
    text: str = ""
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt for echo. text: as the client wrote it, or None if it sent ids or had it truncated.

    starts: where each token begins in the text, if text and log-probabilities are echoed.
    """

    ids: list[int]
    text: str | None = None
    starts: list[int] | None = None


@dataclass(slots=True)
class Usage:
    """Token counts. Each prompt counts once; every candidate's completion counts, returned or not."""

    prompt_tokens: int
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class CandidateText:
    """One candidate's text so far: detokenized, searched for stop sequences, with offsets.

    num_tokens counts the tokens that belong to it; tokens after its end are ignored.
    """

    __slots__ = (
        *("finish_reason", "index", "num_tokens", "_detokenizer", "_is_even", "_is_plain", "_length"),
        *("_params", "_prompt", "_prompt_ids", "_stops", "_tokenizer"),
    )

    def __init__(
        self, index: int, prompt: PromptText, params: GenerationParams, tokenizer: Tokenizer
    ) -> None:
        self.index = index
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._params = params
        self._tokenizer = tokenizer
        self._prompt: PromptText | None = prompt if params.echo else None
        self._prompt_ids = prompt.ids if params.return_token_ids else None
        self._detokenizer = Detokenizer(tokenizer, skip_special=params.skip_special_tokens)
        self._stops = StopMatcher(params.stop, include=params.include_stop)
        # The common case: only make text of tokens until the engine ends the candidate.
        self._is_plain = (
            not (params.stop or params.echo or params.return_token_ids or params.max_tokens == 0)
            and params.num_logprobs is None
        )
        # The next most common: the first token needs nothing of its own, and each one the same.
        self._is_even = not (params.echo or params.return_token_ids or params.max_tokens == 0)
        self._length = 0  # complete characters of text so far, including an echoed prompt

    def push(self, output: EngineOutput) -> Delta:
        """The delta of an engine's output. Its text may be empty: held back, or part of a character."""
        if self._is_plain and output.finish_reason is None:
            num_tokens = len(output.token_ids)
            self.num_tokens += num_tokens
            push = self._detokenizer.push
            text = push(output.token_ids[0]) if num_tokens == 1 else "".join(map(push, output.token_ids))
            return Delta(self.index, text, None, None, num_tokens)
        if self._is_even and output.finish_reason is None and len(output.token_ids) == 1:
            return self._next(output.token_ids[0], output.logprobs)
        delta = self._delta(output)
        if self._params.return_token_ids:
            delta.token_ids = output.token_ids[: delta.num_tokens]
            delta.prompt_token_ids, self._prompt_ids = self._prompt_ids, None
        return delta

    def _next(self, token_id: int, top: TopLogprobs | None) -> Delta:
        """As _delta, for one token that is not the last: without its loops, the usual case is cheaper."""
        logprobs = None
        if top is not None and self._params.num_logprobs is not None:
            offset = self._length
            if self._detokenizer.is_amid:
                offset += self._detokenizer.num_given_up(self._detokenizer.bytes_of(token_id))
            logprobs = Logprobs(self._tokenizer.names, top, [offset])
        text = self._token(token_id, hidden=False)
        if self._params.stop:
            text, stopped = self._stops.push(text, active=self.num_tokens > self._params.min_tokens)
            if stopped:
                self.finish_reason = "stop"
        return Delta(self.index, text, logprobs, self.finish_reason, 1)

    def _delta(self, output: EngineOutput) -> Delta:
        logprobs = None if self._params.num_logprobs is None else self._no_logprobs()
        parts = []
        if self._prompt is not None:
            parts.append(self._echo(self._prompt, output.prompt_logprobs, logprobs))
            self._prompt = None
        if self._params.max_tokens == 0:
            self.finish_reason = "length"
            return Delta(self.index, "".join(parts), logprobs, self.finish_reason)
        before = self.num_tokens
        last = len(output.token_ids) - 1
        for k, token_id in enumerate(output.token_ids):
            is_last = output.finish_reason is not None and k == last
            ends = is_last and output.finish_reason == "stop"
            hidden = ends and (not self._params.include_stop or token_id in self._params.silent_ends)
            if logprobs is not None and output.logprobs is not None:
                part = b"" if hidden else self._detokenizer.bytes_of(token_id)
                offset = self._length + self._detokenizer.num_given_up(part, is_last=is_last)
                logprobs.append(output.logprobs, k, offset)
            text = self._token(token_id, hidden=hidden)
            given, stopped = self._stops.push(text, active=self.num_tokens > self._params.min_tokens)
            parts.append(given)
            if stopped:
                self.finish_reason = "stop"
                return Delta(self.index, "".join(parts), logprobs, "stop", self.num_tokens - before)
        if output.finish_reason is not None:
            self.finish_reason = output.finish_reason
            parts.append(self._end())
        return Delta(self.index, "".join(parts), logprobs, self.finish_reason, self.num_tokens - before)

    def _no_logprobs(self) -> Logprobs:
        num = len(self._params.logprob_token_ids) or self._params.num_logprobs or 0
        return Logprobs(self._tokenizer.names, TopLogprobs(1 + num), [])

    def _token(self, token_id: int, *, hidden: bool) -> str:
        self.num_tokens += 1
        text = "" if hidden else self._detokenizer.push(token_id)
        self._length += len(text)
        return text

    def _end(self) -> str:
        """Text left over when the engine has ended: half a character, or the start of a stop sequence."""
        given, stopped = self._stops.push(self._detokenizer.finish())
        if stopped:
            self.finish_reason = "stop"
            return given
        return given + self._stops.finish()

    def _echo(
        self, prompt: PromptText, prompt_logprobs: TopLogprobs | None, logprobs: Logprobs | None
    ) -> str:
        """The prompt's text, and its log-probabilities if they were asked for; the first token has none."""
        text, starts = self._prompt_text(prompt)
        if logprobs is not None:
            logprobs.first_id = prompt.ids[0]
            logprobs.text_offset += starts
            if len(starts) > 1:
                assert prompt_logprobs is not None, "asked for"
                logprobs.top.extend(prompt_logprobs, len(starts) - 1)
        self._length = len(text)
        return text

    def _prompt_text(self, prompt: PromptText) -> tuple[str, list[int]]:
        """(the prompt's text, where each token begins in it). Half a character at the end of prompt ids is
        completed by the completion."""
        if prompt.text is not None:
            return prompt.text, prompt.starts or []
        skip = self._params.skip_special_tokens
        text, starts = "", []
        for part in self._tokenizer.prompt_bytes(prompt.ids, skip_special=skip):
            starts.append(len(text) + self._detokenizer.num_given_up(part))
            text += self._detokenizer.push_bytes(part)
        return text, starts


def merged(deltas: list[Delta]) -> list[Delta]:
    """One delta for each choice that has any, with the same content."""
    found: dict[int, Delta] = {}
    texts: dict[int, list[str]] = {}
    for delta in deltas:
        whole = found.setdefault(delta.index, Delta(delta.index, ""))
        texts.setdefault(delta.index, []).append(delta.text)
        whole.finish_reason = delta.finish_reason
        whole.num_tokens += delta.num_tokens
        whole.prompt_token_ids = whole.prompt_token_ids or delta.prompt_token_ids
        if delta.token_ids is not None:
            whole.token_ids = [*(whole.token_ids or ()), *delta.token_ids]
        if delta.logprobs is not None:
            if whole.logprobs is None:
                whole.logprobs = delta.logprobs.copy()
            else:
                whole.logprobs.extend(delta.logprobs)
    for index, parts in texts.items():
        found[index].text = "".join(parts)
    return list(found.values())


def fold(num_choices: int, deltas: list[Delta]) -> list[Choice]:
    """The choices that a stream of deltas adds up to."""
    choices = [Choice(index) for index in range(num_choices)]
    for delta in merged(deltas):
        choices[delta.index] = Choice(
            delta.index,
            delta.text,
            delta.logprobs,
            delta.finish_reason,
            delta.token_ids,
            delta.prompt_token_ids,
        )
    return choices
