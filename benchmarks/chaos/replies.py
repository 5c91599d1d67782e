"""The content of a reply, whole or streamed, and the differences between two replies to the same request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Tolerance of log-probabilities: in float32, the rest of the batch changes their last bits.
TOLERANCE = 1e-4


class BrokenReply(Exception):  # noqa: N818  # its message says what it is
    """A reply that is not complete and valid: an error, or what is wrong with its bytes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """choices: added up, if they were streamed. usage: None if it was not sent."""

    choices: list[dict[str, Any]]
    usage: dict[str, int] | None

    def difference(self, other: Reply, *, usage: bool = True) -> str:
        """How it differs from another reply to the same request; empty: not at all.

        usage: whether to compare it; when candidates are given up depends on time.
        """
        here, there = (
            {"choices": reply.choices} | ({"usage": reply.usage} if usage else {}) for reply in (self, other)
        )
        return _difference("", here, there)


def parse(status: int, body: bytes, *, stream: bool) -> Reply:
    """Raises BrokenReply."""
    if status != 200:
        raise BrokenReply(f"{status} {_message(body)}")
    try:
        return _folded(body) if stream else _whole(json.loads(body))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BrokenReply(f"not to be read ({error!r}): {body[-200:]!r}") from error


def _whole(message: dict[str, Any]) -> Reply:
    choices = sorted(message["choices"], key=lambda choice: choice["index"])
    return Reply(choices, message["usage"])


def _folded(body: bytes) -> Reply:
    """The reply that a stream's frames add up to."""
    *frames, done, rest = body.decode().split("\n\n")
    if rest or done != "data: [DONE]":
        raise BrokenReply(f"the stream has no end: {body[-200:]!r}")
    choices: dict[int, dict[str, Any]] = {}
    usage, names = None, set()
    for frame in frames:
        if frame.startswith(":"):
            continue
        message = json.loads(frame.removeprefix("data: "))
        if "choices" not in message:
            raise BrokenReply(f"an error frame: {message['message']}")
        names.add((message["id"], message["created"], message["model"]))
        usage = message.get("usage") or usage
        for part in message["choices"]:
            _add(choices, part)
    if len(names) != 1 or any(choice["finish_reason"] is None for choice in choices.values()):
        raise BrokenReply(f"frames of {len(names)} replies, or a choice without an end: {body[-200:]!r}")
    return Reply([choices[index] for index in sorted(choices)], usage)


def _add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    known = choices.setdefault(part["index"], {**part, "text": "", "logprobs": None, "finish_reason": None})
    if known["finish_reason"] is not None:
        raise BrokenReply("a chunk after the choice's last one")
    known["text"] += part["text"]
    known["finish_reason"] = part["finish_reason"]
    if part["logprobs"] is not None:
        whole = known["logprobs"] or {name: [] for name in part["logprobs"]}
        known["logprobs"] = {name: whole[name] + part["logprobs"][name] for name in whole}


def num_comments(body: bytes) -> int:
    """Comment frames in a stream that waited for an engine."""
    return body.count(b": resuming\n\n")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (KeyError, TypeError, ValueError):
        return repr(body[:200])


def _difference(where: str, left: Any, right: Any) -> str:
    if isinstance(left, dict) and isinstance(right, dict):
        if list(left) != list(right):
            return f"{where}: {list(left)} / {list(right)}"
        pairs = [(f"{where}.{name}", left[name], right[name]) for name in left]
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return f"{where}: {len(left)} / {len(right)} of them"
        pairs = [(f"{where}[{k}]", *both) for k, both in enumerate(zip(left, right, strict=True))]
    else:
        return "" if _equal(left, right) else f"{where}: {left!r} / {right!r}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), "")


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE
    return bool(left == right)
