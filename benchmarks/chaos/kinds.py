"""Requests of many kinds, drawn with a seed: the same seed gives the same requests."""

from __future__ import annotations

import random
from typing import Any

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small house at the sea,",
    "def fibonacci(n):\n    ",
    "Ten reasons to be careful with knives: first,",
    "日本の首都は",
    "1, 2, 3, 4, 5,",
    "Dear Sir or Madam, I am writing to you because",
    "🙂 and 🙃 are",
)
IDS = [504, 3575, 282, 4649, 314]
NUM_STOP_CHARS = 5


def drawn(draw: random.Random, number: int, *, sampled: bool) -> dict[str, Any]:
    """A request without a stop sequence. sampled: whether it may be other than greedy."""
    fields: dict[str, Any] = {
        "prompt": f"{draw.choice(PROMPTS)} {number}",
        "max_tokens": draw.randint(60, 190),
        "ignore_eos": draw.random() < 0.9,
        "temperature": 0,
    }
    if draw.random() < 0.15:
        fields["prompt"] = [*IDS, 1000 + number]
    elif draw.random() < 0.1:
        fields["prompt"] = [fields["prompt"], f"{draw.choice(PROMPTS)} {number}"]
    if sampled and draw.random() < 0.7:
        fields |= {"temperature": draw.choice((0.5, 0.8, 1.0, 1.4)), "seed": draw.randrange(2**31)}
        fields |= _some(draw, 0.3, {"top_p": 0.9, "top_k": draw.choice((5, 40, 128)), "min_p": 0.02})
    penalties = {
        "repetition_penalty": draw.choice((0.9, 1.1, 1.3)),
        "frequency_penalty": draw.choice((-0.5, 0.4, 1.0)),
        "presence_penalty": draw.choice((-0.5, 0.3, 1.0)),
        "logit_bias": {str(draw.randrange(1000, 40_000)): draw.choice((-100, 3, 8)) for _ in range(3)},
        "min_tokens": 20,
    }
    fields |= _some(draw, 0.35, penalties)
    if draw.random() < 0.3:
        fields |= {"logprobs": draw.randint(0, 5)} | _some(draw, 0.5, {"echo": True})
    return fields | _candidates(draw)


def _some(draw: random.Random, share: float, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if draw.random() < share}


def _candidates(draw: random.Random) -> dict[str, Any]:
    """The number of candidates: a quarter of all requests have several, and half of these are ranked."""
    if draw.random() >= 0.25:
        return {}
    n = draw.randint(1, 3)
    return {"n": n, "best_of": n + draw.randint(1, 3)} if draw.random() < 0.5 else {"n": n}


def can_stream(fields: dict[str, Any]) -> bool:
    return bool(fields.get("best_of", 1) <= fields.get("n", 1))


def with_stop(draw: random.Random, fields: dict[str, Any], text: str) -> dict[str, Any]:
    """The request that stops in the middle of this text, which it makes without: at a place that no token has
    to itself, most times."""
    middle = draw.randint(len(text) // 3, max(len(text) // 3, len(text) - NUM_STOP_CHARS - 1))
    stop = text[middle : middle + NUM_STOP_CHARS]
    return {**fields, "stop": ["\u2603 never", stop], "include_stop_str_in_output": draw.random() < 0.5}
