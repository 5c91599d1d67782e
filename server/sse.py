"""Bytes: the reply, the chunks of a stream and the frames around them; pure functions, and nowhere else."""

from __future__ import annotations

from typing import Any

import orjson

from server.errors import RequestFailure, error_body
from server.generation import Usage
from server.outputs import Choice, Delta, Logprobs

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class Reply:
    """What all messages of one reply share. created: seconds since the epoch."""

    __slots__ = ("_head",)

    def __init__(self, reply_id: str, created: int, model: str) -> None:
        self._head = {"id": reply_id, "object": "text_completion", "created": created, "model": model}

    def body(self, choices: list[Choice], usage: Usage) -> bytes:
        """The whole reply."""
        return orjson.dumps(self._head | {"choices": [_choice(c) for c in choices], "usage": _usage(usage)})

    def chunk(self, delta: Delta, **usage: Usage | None) -> bytes:
        """One frame with one choice. usage=None writes null, no usage argument leaves the key out."""
        return self._frame([_choice(delta)], usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The frame before [DONE] that was asked for with include_usage."""
        return self._frame([], {"usage": usage})

    def _frame(self, choices: list[dict[str, Any]], usage: dict[str, Usage | None]) -> bytes:
        message = self._head | {"choices": choices}
        if "usage" in usage:
            message["usage"] = _usage(usage["usage"])
        return frame(message)


def frame(message: dict[str, Any]) -> bytes:
    """One server-sent event. JSON has no line break outside its strings, and none unescaped inside."""
    return b"data: " + orjson.dumps(message) + b"\n\n"


def error_frame(failure: RequestFailure) -> bytes:
    """A failure after the first byte, when the status is sent: the flat error and the object SDKs read."""
    return frame(error_body(failure))


def _choice(choice: Choice | Delta) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": None if choice.logprobs is None else _logprobs(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _logprobs(logprobs: Logprobs) -> dict[str, Any]:
    return {
        "tokens": logprobs.tokens,
        "token_logprobs": logprobs.token_logprobs,
        "top_logprobs": logprobs.top_logprobs,
        "text_offset": logprobs.text_offset,
    }


def _usage(usage: Usage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


class Stream:
    """The frames of one streamed reply, and its usage so far.

    include_usage: True, one more frame with the usage, and "usage": null before it; None, the usage on the
    last frame that has a choice; False, none. continuous: the usage so far on every frame, with
    include_usage.
    """

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
        self._unfinished = num_choices
        self._usage = Usage(prompt_tokens)
        self._include_usage = include_usage
        self._continuous = continuous

    def frames(self, deltas: list[Delta]) -> bytes:
        """The frames of a batch of deltas; after the last choice has finished, the end of the stream too."""
        parts = [self._chunk(delta) for delta in deltas]
        if self._unfinished == 0:
            if self._include_usage:
                parts.append(self._reply.usage_chunk(self._usage))
            parts.append(DONE)
        return b"".join(parts)

    def _chunk(self, delta: Delta) -> bytes:
        self._usage.completion_tokens += delta.num_tokens
        if not delta.text and delta.logprobs is None and delta.finish_reason is None:
            return b""
        self._unfinished -= delta.finish_reason is not None
        if self._include_usage:
            return self._reply.chunk(delta, usage=self._usage if self._continuous else None)
        if self._include_usage is None and self._unfinished == 0:
            return self._reply.chunk(delta, usage=self._usage)
        return self._reply.chunk(delta)
