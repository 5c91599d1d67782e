"""The cost of a run: requests and tokens, stated before it begins and never exceeded.

Tokens are counted before a request is sent, as many as it can take; the ones that the reply did not take are
given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

from conform.subject.ends import OverBudget

DEFAULT_MAX_TOKENS = 16  # of a request without max_tokens
MOST_RETRIES = 20  # of a run: requests that are repeated after a 429


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
    """The allowance of the running rule, and what the run has spent in all.

    peak: the most tokens of the allowance that were taken at once, including those given back later.
    """

    def __init__(self) -> None:
        self.spent = NOTHING
        self.retries = 0
        self._lock = Lock()  # a rule may send several requests at once
        self.open(NOTHING)

    def open(self, allowance: Cost) -> None:
        """Begin a rule: from now on, it may spend its allowance."""
        self.allowance = allowance
        self.used = NOTHING
        self.peak = 0

    def take(self, tokens: int) -> None:
        """Count a request before it is sent. Raises OverBudget."""
        with self._lock:
            after = self.used + Cost(1, tokens)
            self.peak = max(self.peak, after.tokens)
            if after.requests > self.allowance.requests or after.tokens > self.allowance.tokens:
                raise OverBudget(f"it would have used {after}, but is allowed {self.allowance}")
            self.used = after
            self.spent += Cost(1, tokens)

    def give_back(self, tokens: int) -> None:
        with self._lock:
            self.used += Cost(0, -tokens)
            self.spent += Cost(0, -tokens)

    def retry(self) -> bool:
        """Whether a request that got a 429 may be sent again."""
        with self._lock:
            self.retries += 1
            return self.retries <= MOST_RETRIES


def most_tokens(body: object) -> int:
    """The most tokens that a request can take: its prompts by their bytes, and every candidate's tokens."""
    if not isinstance(body, dict):
        return 0
    prompts = _prompts(body.get("prompt"))
    max_tokens = _integer(body.get("max_tokens"), DEFAULT_MAX_TOKENS)
    candidates = max(_integer(body.get("n"), 1), _integer(body.get("best_of"), 1), 1)
    return sum(prompts) + len(prompts) * candidates * max(0, max_tokens)


def _prompts(prompt: Any) -> list[int]:
    """The most tokens of each prompt; a tokenizer adds one before a text."""
    if isinstance(prompt, str):
        return [len(prompt.encode("utf-8", "replace")) + 1]
    if isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
        return [tokens for part in prompt for tokens in _prompts(part)]
    return [len(prompt)] if isinstance(prompt, list) else [1]


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
