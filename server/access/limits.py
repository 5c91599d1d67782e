"""Requests and tokens per minute of one key, and its requests at the same time.

A sliding window rather than a bucket: no 60 seconds, wherever they begin, hold more requests than the limit,
which is what "per minute" says. A request's tokens are counted when it is known how many they can be at most,
and what was not used is given back at its end; the request that crosses the limit is let through, and the
next ones wait.
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
    """Of a limit per minute. reset_s: until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class Allowance:
    """What one request takes of its key's limits: this one's has none."""

    def begin(self) -> None:
        """Counts the request, or refuses it; one that is refused does not count."""

    def reserve(self, tokens: int) -> None:
        """Counts the tokens that it takes at most, or refuses it."""

    def settle(self, tokens: int) -> None:
        """Gives back what it has reserved over these."""

    def end(self) -> None:
        """It runs no more. Safe to call twice, and without begin."""

    def requests_left(self) -> Left | None:
        """None: no such limit."""
        return None

    def tokens_left(self) -> Left | None:
        """None: no such limit."""
        return None


UNLIMITED = Allowance()


class Limited(Allowance):
    """One request of a key that has limits."""

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
                # One of so many ends after that time, on average.
                wait_s = math.ceil(tally.mean_s / key.concurrent_requests)
                raise RateLimitExceeded(
                    f"the API key {key.name} has {tally.running} requests running, of"
                    f" {key.concurrent_requests} that it may have at the same time",
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
                self._check_tokens(self._tally, now)  # others have begun meanwhile
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
        """None: a full disk has no room for a further tally. Requests are answered all the same."""
        try:
            return self._tallies.of(self._key.name)
        except OSError as error:
            log.error("requests of the API key %s are not counted: %s", self._key.name, error.strerror)
            return None

    def _left(self, limit: int, window: Window | None) -> Left | None:
        if not limit:
            return None
        if window is None:  # nothing is known of it
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
        """For one request of that key."""
        if key.requests_per_minute or key.tokens_per_minute or key.concurrent_requests:
            return Limited(key, self._tallies, self._clock)
        return UNLIMITED
