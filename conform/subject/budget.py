"""What a run may cost: requests and tokens, stated before it begins and never exceeded.

A token counts before its request is sent, as many as it may take at most; what the reply says that it did not
take is given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

from conform.subject.ends import OverBudget

DEFAULT_MAX_TOKENS = 16  # of a request that does not say
MOST_RETRIES = 20  # in a run: requests that a 429 asks to send again


@dataclass(frozen=True, slots=True)
class Cost:
    requests: int
    tokens: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.requests + other.requests, self.tokens + other.tokens)

    def __str__(self) -> str:
        return f"{self.requests:,} requests and {self.tokens:,} tokens"


NOTHING = Cost(0, 0)


class Budget:
    """The allowance of the rule that runs, and what the run has spent in all.

    peak: the most tokens of the allowance that were taken at once, what was given back later included.
    """

    def __init__(self) -> None:
        self.spent = NOTHING
        self.retries = 0
        self._lock = Lock()  # a rule may send several requests at the same time
        self.open(NOTHING)

    def open(self, allowance: Cost) -> None:
        """Begin a rule: from here on, its allowance is all that may be spent."""
        self.allowance = allowance
        self.used = NOTHING
        self.peak = 0

    def take(self, tokens: int) -> None:
        """Before a request is sent. Raises OverBudget."""
        with self._lock:
            after = self.used + Cost(1, tokens)
            self.peak = max(self.peak, after.tokens)
            if after.requests > self.allowance.requests or after.tokens > self.allowance.tokens:
                raise OverBudget(f"it would have spent {after}, of {self.allowance}")
            self.used = after
            self.spent += Cost(1, tokens)

    def give_back(self, tokens: int) -> None:
        with self._lock:
            self.used += Cost(0, -tokens)
            self.spent += Cost(0, -tokens)

    def retry(self) -> bool:
        """Whether one more request may be sent in place of one that was refused with a 429."""
        with self._lock:
            self.retries += 1
            return self.retries <= MOST_RETRIES


def most_tokens(body: object) -> int:
    """The most that a request can take: its prompts by their bytes, and every candidate's tokens."""
    if not isinstance(body, dict):
        return 0
    prompts = _prompts(body.get("prompt"))
    max_tokens = _integer(body.get("max_tokens"), DEFAULT_MAX_TOKENS)
    candidates = max(_integer(body.get("n"), 1), _integer(body.get("best_of"), 1), 1)
    return sum(prompts) + len(prompts) * candidates * max(0, max_tokens)


def _prompts(prompt: Any) -> list[int]:
    """The most tokens that each prompt can have; a tokenizer puts one before a text."""
    if isinstance(prompt, str):
        return [len(prompt.encode("utf-8", "replace")) + 1]
    if isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
        return [tokens for part in prompt for tokens in _prompts(part)]
    return [len(prompt)] if isinstance(prompt, list) else [1]


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
