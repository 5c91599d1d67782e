"""The load: conversations of one or several turns, each turn with one or several candidates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Turn:
    """said: tokens that the client adds to the text so far. wait_s: seconds before that."""

    said: list[int]
    num_reply: int
    num_candidates: int = 1
    wait_s: float = 0.0


Conversation = list[Turn]
Workload = Callable[[Random], Iterator[Conversation]]
VOCABULARY = 1 << 17


def text(rng: Random, length: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def around(rng: Random, median: float, spread: float, most: int) -> int:
    """A log-normal number, from 1 to most."""
    return max(1, min(most, round(median * math.exp(rng.gauss(0.0, spread)))))


def chat(rng: Random) -> Iterator[Conversation]:
    """16 assistants with instructions of 200 to 1,500 tokens; 1 to 12 turns, 4 on average; the client pauses
    for 10 s on average; questions of about 60 tokens and replies of about 150."""
    instructions = [text(rng, rng.randrange(200, 1500)) for _ in range(16)]
    while True:
        turns = Conversation()
        for number in range(12):
            said = text(rng, around(rng, 60, 0.9, 1500))
            if not number:
                said = [*rng.choice(instructions), *said]
            wait_s = rng.expovariate(1 / 10) if number else 0.0
            turns.append(Turn(said, around(rng, 150, 0.8, 800), wait_s=wait_s))
            if rng.random() < 0.25:
                break
        yield turns


def few_shot(rng: Random) -> Iterator[Conversation]:
    """200 templates of 1,000 to 3,000 tokens, the k-th used 1/k as often as the first; each followed by a
    question of about 60 tokens and an answer of about 30; every fifth request has eight candidates."""
    templates = [text(rng, rng.randrange(1000, 3000)) for _ in range(200)]
    often = [*itertools.accumulate(1 / (k + 1) for k in range(len(templates)))]
    while True:
        (template,) = rng.choices(templates, cum_weights=often)
        said = [*template, *text(rng, around(rng, 60, 0.6, 500))]
        yield [Turn(said, around(rng, 30, 0.8, 300), 8 if rng.random() < 0.2 else 1)]


def unshared(rng: Random) -> Iterator[Conversation]:
    """Prompts of about 500 tokens with nothing in common, and replies of about 150."""
    while True:
        yield [Turn(text(rng, around(rng, 500, 0.9, 6000)), around(rng, 150, 0.8, 800))]


def poisson(rng: Random, rate: float) -> Iterator[float]:
    """Arrival times in seconds; rate: per second."""
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now


def bursts(rng: Random, rate: float) -> Iterator[float]:
    """The same average rate, in bursts of about 40 within half a second."""
    for start in poisson(rng, rate / 40):
        for _ in range(around(rng, 32, 0.67, 200)):
            yield start + rng.random() / 2
