"""The stream and the reply to one request: the chunks add up to it."""

from __future__ import annotations

from typing import Any

from conform.rules.reply import NO_ZERO
from conform.rules.stops import pieces
from conform.subject.ends import require, shown
from conform.subject.frames import fold
from conform.subject.rule import rule
from conform.subject.server import PLAIN, Subject

NEAR = 0.1  # log-probabilities of one token in two steps
FOLDED: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "max_tokens": 6},
    {"n": 3, "temperature": 1.2, "seed": 7, "logprobs": 1, "max_tokens": 8},
    {"prompt": [[300], [400, 500], [600]], "n": 2, "temperature": 1, "seed": 2, "max_tokens": 5},
    {"echo": True, "logprobs": 2, "temperature": 0, "max_tokens": 4},
    {
        "prompt": ["naïve 🦊", "日本語"],
        "echo": True,
        "logprobs": 3,
        "temperature": 1,
        "seed": 1,
        "max_tokens": 6,
    },
)
NOTHING: tuple[dict[str, Any], ...] = ({"max_tokens": 0}, {"max_tokens": 0, "echo": True, "logprobs": 1})


@rule("stream.folds-to-the-reply", requests=2 * len(FOLDED), tokens=600)
def folds_to_the_reply(subject: Subject) -> None:
    """The chunks add up to the reply to the same request, field by field."""
    for asked in FOLDED:
        _folds(subject, asked)


@rule("stream.folds-of-no-tokens", requests=4, tokens=110, differs=NO_ZERO)
def folds_of_no_tokens(subject: Subject) -> None:
    """The chunks also add up with `max_tokens` 0, with or without `echo`."""
    for asked in NOTHING:
        _folds(subject, asked)


@rule("stream.stops-as-the-reply", requests=4, tokens=170)
def stops_as_the_reply(subject: Subject) -> None:
    """The chunks also add up if a stop sequence ends the text, included or left out."""
    _, stop = pieces(subject)
    _folds(subject, PLAIN | {"stop": [stop]})
    _folds(subject, PLAIN | {"stop": stop, "include_stop_str_in_output": False})


@rule("stream.token-ids", requests=2, tokens=120, differs={"openai": "there is no such field"})
def token_ids(subject: Subject) -> None:
    """With `return_token_ids` the ids of the chunks add up too, and a choice's first chunk has
    the prompt's ids."""
    asked: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 4, "max_tokens": 6, "return_token_ids": True}
    whole, chunks = subject.choices(**asked), subject.chunks(**asked)
    for choice in whole:
        parts = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        ids = [i for part in parts for i in part["token_ids"] or ()]
        require(ids == choice["token_ids"], f"{shown(ids)} is not {shown(choice['token_ids'])}")
        prompts = [part.get("prompt_token_ids") for part in parts]
        require(prompts[0] == choice["prompt_token_ids"], f"prompt_token_ids is {shown(prompts[0])}")
        require(not any(prompts[1:]), f"prompt_token_ids of further chunks: {shown(prompts[1:])}")


def _folds(subject: Subject, asked: dict[str, Any]) -> None:
    whole, parts = subject.choices(**asked), fold(subject.chunks(**asked))
    require(
        len(whole) == len(parts), f"{shown(asked)}: {len(parts)} choices in the stream, {len(whole)} without"
    )
    for one, other in zip(whole, parts, strict=True):
        for name, value in other.items():
            seen, wanted = shown(value, 90), shown(one.get(name), 90)
            message = f"{shown(asked, 90)}: {name} is {seen}, and {wanted} without a stream"
            require(alike(one.get(name), value), message)


def alike(left: Any, right: Any) -> bool:
    """Whether two values are equal. Log-probabilities may differ a little: with 16-bit numbers, the rest of
    an engine's batch moves them, and may bring another token among the likeliest."""
    if isinstance(left, dict) and isinstance(right, dict):
        common = left.keys() & right.keys()
        likeliest = all(isinstance(value, float) for value in left.values())
        same = bool(common) if likeliest and left else left.keys() == right.keys()
        return same and all(alike(left[name], right[name]) for name in common)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) < NEAR
    return bool(left == right)
