"""Bytes of replies, chunks and frames: made by pure functions, here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from server.errors import RequestFailure, error_body
from server.generation.contest import Outcome
from server.generation.logprobs import MINUS_INFINITY
from server.generation.outputs import Choice, Delta, Usage

DONE = b"data: [DONE]\n\n"
FRAME_END = b"]}\n\n"
INDEX = b'{"index":%d,"text":'
LOGPROBS, END = b',"logprobs":', b',"finish_reason":null}' + FRAME_END
PLAIN_END = LOGPROBS + b"null" + END
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class Reply:
    """What all messages of one reply share, as bytes that are made once. created: seconds since the epoch."""

    __slots__ = ("_head", "chunk_head")

    def __init__(self, reply_id: str, created: int, model: str) -> None:
        head = {"id": reply_id, "object": "text_completion", "created": created, "model": model}
        self._head = orjson.dumps(head)[:-1] + b',"choices":['
        self.chunk_head = b"data: " + self._head

    def body(
        self, choices: list[Choice], usage: Usage, outcomes: Sequence[Outcome] = (), best_of: int = 1
    ) -> bytes:
        """The whole reply. outcomes: of the candidates, best_of for each prompt, if it is to tell of them."""
        told = b',"candidates":' + _candidates(outcomes, best_of) if outcomes else b""
        return self._head + b",".join(map(_choice, choices)) + b'],"usage":' + _usage(usage) + told + b"}"

    def chunk(self, delta: Delta, **usage: Usage | None) -> bytes:
        """One frame with one choice. usage=None writes null; without the argument, the key is left out."""
        return self.chunk_head + _choice(delta) + (_with_usage(usage["usage"]) if usage else FRAME_END)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The frame with the usage before [DONE], for include_usage."""
        return self.chunk_head + _with_usage(usage)


def comment(words: str) -> bytes:
    """A comment frame: ignored by clients, but proxies see that the connection is alive."""
    return f": {words}\n\n".encode()


def frame(message: dict[str, Any]) -> bytes:
    """One server-sent event. JSON has no line breaks outside its strings, and no unescaped ones inside."""
    return b"data: " + orjson.dumps(message) + b"\n\n"


def error_frame(failure: RequestFailure) -> bytes:
    """A failure after the first byte: the flat error, and the `error` object that SDKs read."""
    return frame(error_body(failure))


def _choice(choice: Choice | Delta) -> bytes:
    """The JSON of a choice. orjson escapes the text; the rest always has the same form."""
    logprobs, reason = choice.logprobs, choice.finish_reason
    return b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b%b}' % (
        choice.index,
        orjson.dumps(choice.text),
        b"null" if logprobs is None else orjson.dumps(logprobs.arrays()),
        b"null" if reason is None else b'"%b"' % reason.encode(),
        b"" if choice.token_ids is None else _token_ids(choice),
    )


def _candidates(outcomes: Sequence[Outcome], best_of: int) -> bytes:
    return orjson.dumps(
        [
            {
                "prompt_index": place // best_of,
                "number": place % best_of,
                "mean_logprob": None if one.mean is None else max(one.mean, MINUS_INFINITY),
                "completion_tokens": one.num_tokens,
                "finish_reason": None if one.finish == "given_up" else one.finish,
                "given_up_after": one.num_tokens if one.finish == "given_up" else None,
                "choice": one.choice,
            }
            for place, one in enumerate(outcomes)
        ]
    )


def _token_ids(choice: Choice | Delta) -> bytes:
    """The token ids as in vLLM: the prompt's are only in the first chunk."""
    ids = b',"token_ids":' + orjson.dumps(choice.token_ids)
    if choice.prompt_token_ids is None:
        return ids
    return ids + b',"prompt_token_ids":' + orjson.dumps(choice.prompt_token_ids)


def _with_usage(usage: Usage | None) -> bytes:
    return b'],"usage":' + (b"null" if usage is None else _usage(usage)) + b"}\n\n"


def _usage(usage: Usage) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
    )


class Stream:
    """The frames of one streamed reply, and its usage so far.

    include_usage: True: a last frame with the usage, and "usage": null in the others; None: the usage on the
    last frame that has a choice; False: none. continuous: with include_usage, the usage so far
    on every frame. is_over: whether every choice has finished, so that the frames so far are complete.
    """

    __slots__ = (
        *("is_over", "_continuous", "_include_usage", "_num_tokens", "_first_head", "_prompt_tokens"),
        *("_reply", "_unfinished"),
    )

    def __init__(
        self,
        reply: Reply,
        num_choices: int,
        prompt_tokens: int,
        *,
        include_usage: bool | None,
        continuous: bool,
    ) -> None:
        self._reply = reply
        self.is_over = False
        self._unfinished = num_choices
        self._prompt_tokens = prompt_tokens
        self._num_tokens = 0  # generated
        self._include_usage = include_usage
        self._continuous = continuous
        self._first_head = reply.chunk_head + INDEX % 0  # of the first choice's chunks

    def frames(self, deltas: list[Delta]) -> bytes:
        """The frames of a batch of deltas; after the last choice has finished, also the end of the stream."""
        if len(deltas) == 1:
            delta = deltas[0]
            if delta.finish_reason is None:
                return self._chunk(delta)
        parts = [self._chunk(delta) for delta in deltas]
        if self.is_over:
            if self._include_usage:
                parts.append(self._reply.usage_chunk(self._usage()))
            parts.append(DONE)
        return b"".join(parts)

    def _chunk(self, delta: Delta) -> bytes:
        self._num_tokens += delta.num_tokens
        logprobs = delta.logprobs
        if delta.finish_reason is None and delta.token_ids is None:
            if logprobs is None and not delta.text:
                return b""
            if not self._include_usage:
                index, text = delta.index, orjson.dumps(delta.text)
                head = self._reply.chunk_head + INDEX % index if index else self._first_head
                if logprobs is None:
                    return b"".join((head, text, PLAIN_END))
                return b"".join((head, text, LOGPROBS, orjson.dumps(logprobs.arrays()), END))
        if delta.finish_reason is not None:
            self._unfinished -= 1
            self.is_over = self._unfinished == 0
        if self._include_usage:
            return self._reply.chunk(delta, usage=self._usage() if self._continuous else None)
        if self._include_usage is None and self.is_over:
            return self._reply.chunk(delta, usage=self._usage())
        return self._reply.chunk(delta)

    def _usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._num_tokens)
