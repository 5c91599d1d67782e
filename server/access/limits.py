"""Limits of one key: requests and tokens per minute, and requests at the same time.

They use a sliding window instead of a bucket: no 60 seconds, wherever they begin, contain more requests than
the limit. A request reserves the largest number of tokens that it can use, and gives the unused ones back at
its end. The request that crosses the token limit is let through, and the next ones are refused.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.access.tallies import Tallies, Tally, Window
from server.access.terms import Key
from server.errors import RateLimitExceeded, TokenLimitExceeded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a limit per minute. reset_s: seconds until the whole limit is available again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a key has used of its limits: requests and tokens of the last minute, and requests that run."""

    requests: int = 0
    tokens: int = 0
    running: int = 0


class Allowance:
    """What one request uses of its key's limits. This class is for a key without limits."""

    def begin(self) -> None:
        """Count the request, or refuse it (RateLimitExceeded). A refused request does not count."""

    def reserve(self, tokens: int) -> None:
        """Reserve the largest number of tokens that the request can use, or
        refuse it (TokenLimitExceeded)."""

    def settle(self, tokens: int) -> None:
        """Give back the reserved tokens beyond this number, which was used."""

    def end(self) -> None:
        """The request has ended. Safe to call twice, and without begin."""

    def requests_left(self) -> Left | None:
        """None: there is no such limit."""
        return None

    def tokens_left(self) -> Left | None:
        """None: there is no such limit."""
        return None


UNLIMITED = Allowance()


class Limited(Allowance):
    """One request of a key with limits."""

    def __init__(self, key: Key, tallies: Tallies, clock: Callable[[], float]) -> None:
        self._key = key
        self._tallies = tallies
        self._clock = clock
        self._tally: Tally | None = None
        self._began = 0.0
        self._reserved, self._reserved_at = 0, 0.0
        self._runs = False

    def begin(self) -> None:
        key, now = self._key, self._clock()
        with self._tallies.locked() as is_locked:
            tally = self._tally = self._open() if is_locked else None
            if tally is None:
                return
            self._check_tokens(tally, now)
            if key.requests_per_minute and tally.requests.total(now) >= key.requests_per_minute:
                raise RateLimitExceeded(
                    f"the API key {key.name} made its {key.requests_per_minute} requests per minute",
                    retry_after_s=tally.requests.wait_s(key.requests_per_minute, now),
                )
            if key.concurrent_requests and tally.running >= key.concurrent_requests:
                # On average, one of the running requests ends after this time.
                wait_s = math.ceil(tally.mean_s / key.concurrent_requests)
                raise RateLimitExceeded(
                    f"the API key {key.name} has {tally.running} requests running, and may have at most"
                    f" {key.concurrent_requests} at the same time",
                    retry_after_s=max(wait_s, 1),
                )
            if key.requests_per_minute:
                tally.requests.add(1, now)
            tally.begin()
        self._began, self._runs = now, True

    def reserve(self, tokens: int) -> None:
        if self._tally is None or not self._key.tokens_per_minute:
            return
        now = self._clock()
        with self._tallies.locked() as is_locked:
            if not is_locked:
                return
            try:
                self._check_tokens(self._tally, now)  # other requests may have begun meanwhile
            except TokenLimitExceeded:
                self._tally.requests.take_back(1, self._began, now)
                raise
            self._tally.tokens.add(tokens, now)
        self._reserved, self._reserved_at = tokens, now

    def settle(self, tokens: int) -> None:
        unused = self._reserved - tokens
        if self._tally is None or unused <= 0:
            return
        with self._tallies.locked() as is_locked:
            if is_locked:
                self._tally.tokens.take_back(unused, self._reserved_at, self._clock())
                self._reserved = tokens

    def end(self) -> None:
        if self._runs and self._tally is not None:
            self._runs = False
            self._tally.end(self._clock() - self._began)

    def requests_left(self) -> Left | None:
        window = None if self._tally is None else self._tally.requests
        return self._left(self._key.requests_per_minute, window)

    def tokens_left(self) -> Left | None:
        window = None if self._tally is None else self._tally.tokens
        return self._left(self._key.tokens_per_minute, window)

    def _open(self) -> Tally | None:
        """The key's tally. None: a full disk has no room for it; requests are answered all the same."""
        try:
            return self._tallies.of(self._key.name)
        except OSError as error:
            log.error(
                "requests of the API key %s are not counted towards its limits: %s",
                self._key.name,
                error.strerror,
            )
            return None

    def _left(self, limit: int, window: Window | None) -> Left | None:
        if not limit:
            return None
        if window is None:  # the usage is unknown
            return Left(limit, limit, 0.0)
        now = self._clock()
        return Left(limit, max(limit - window.total(now), 0), window.reset_s(now))

    def _check_tokens(self, tally: Tally, now: float) -> None:
        limit = self._key.tokens_per_minute
        if limit and tally.tokens.total(now) >= limit:
            raise TokenLimitExceeded(
                f"the API key {self._key.name} used its {limit} tokens per minute",
                retry_after_s=tally.tokens.wait_s(limit, now),
            )


class RateLimits:
    """The limits of all keys, over all processes that share the tallies."""

    def __init__(self, tallies: Tallies, clock: Callable[[], float] = time.monotonic) -> None:
        self._tallies = tallies
        self._clock = clock

    def of(self, key: Key) -> Allowance:
        """The allowance of one request of that key."""
        if key.requests_per_minute or key.tokens_per_minute or key.concurrent_requests:
            return Limited(key, self._tallies, self._clock)
        return UNLIMITED

    def spent(self) -> dict[str, Spent]:
        """By the keys' names: of those that have limits and were used."""
        now = self._clock()
        with self._tallies.locked() as is_locked:
            known = self._tallies.known() if is_locked else {}
            return {
                name: Spent(tally.requests.total(now), tally.tokens.total(now), tally.running)
                for name, tally in known.items()
            }
