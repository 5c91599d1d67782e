"""Requests and tokens per minute of one key.

A sliding window rather than a bucket: no 60 seconds, wherever they begin, hold more requests than the limit,
which is what "per minute" says. Tokens are known only after a request, so the one that crosses the limit is
let through and the next ones wait.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from server.errors import RateLimitExceeded, TokenLimitExceeded

WINDOW_S = 60.0


class Window:
    """The sum of what was added in the last 60 seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: deque[tuple[float, int]] = deque()  # when it ends to count, amount; oldest first
        self._total = 0

    def add(self, amount: int) -> None:
        self._entries.append((self._clock() + WINDOW_S, amount))
        self._total += amount

    def total(self) -> int:
        now = self._clock()
        while self._entries and self._entries[0][0] <= now:
            self._total -= self._entries.popleft()[1]
        return self._total

    def wait_s(self, limit: int) -> int:
        """Whole seconds, 1 to 60, until the sum is below the limit."""
        left, now = self.total(), self._clock()
        for end, amount in self._entries:
            left -= amount
            if left < limit:
                wait_s = math.ceil(end - now)
                return min(wait_s if now + wait_s >= end else wait_s + 1, 60)  # floats round
        return 1


class RateLimits:
    """One window of requests and one of tokens for each key; a limit of 0 is none."""

    def __init__(
        self, requests_per_minute: int, tokens_per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._requests: dict[str, Window] = {}
        self._tokens: dict[str, Window] = {}

    def admit(self, key: str) -> None:
        """Counts a request, or refuses it; one that is refused does not count."""
        if self._tokens_per_minute:
            tokens = self._tokens.get(key)
            if tokens and tokens.total() >= self._tokens_per_minute:
                raise TokenLimitExceeded(
                    f"the API key {key} used its {self._tokens_per_minute} tokens per minute",
                    retry_after_s=tokens.wait_s(self._tokens_per_minute),
                )
        if self._requests_per_minute:
            requests = self._requests.setdefault(key, Window(self._clock))
            if requests.total() >= self._requests_per_minute:
                raise RateLimitExceeded(
                    f"the API key {key} made its {self._requests_per_minute} requests per minute",
                    retry_after_s=requests.wait_s(self._requests_per_minute),
                )
            requests.add(1)

    def charge(self, key: str, tokens: int) -> None:
        """Counts the tokens of a request, as its usage says."""
        if self._tokens_per_minute and tokens > 0:
            self._tokens.setdefault(key, Window(self._clock)).add(tokens)
