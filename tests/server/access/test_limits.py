from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.limits import RateLimits
from server.errors import RateLimitExceeded, TokenLimitExceeded


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_per_minute() -> None:
    """The request after the last allowed one is refused, and says when the next is allowed."""
    clock = Clock()
    limits = RateLimits(2, 0, clock)
    limits.admit("a")
    clock.now += 10
    limits.admit("a")
    with pytest.raises(RateLimitExceeded) as caught:
        limits.admit("a")
    assert caught.value.retry_after_s == 50
    clock.now += 50
    limits.admit("a")


def test_refused_requests_do_not_count() -> None:
    """A client that goes on asking is let in again at the promised time."""
    clock = Clock()
    limits = RateLimits(1, 0, clock)
    limits.admit("a")
    for _ in range(59):
        clock.now += 1
        with pytest.raises(RateLimitExceeded):
            limits.admit("a")
    clock.now += 1
    limits.admit("a")


def test_keys_do_not_share() -> None:
    """One key's requests and tokens leave another's alone."""
    limits = RateLimits(1, 1, Clock())
    limits.admit("a")
    limits.charge("a", 5)
    limits.admit("b")


def test_tokens_per_minute() -> None:
    """The request that crosses the limit is answered; the next waits until enough tokens are a minute old."""
    clock = Clock()
    limits = RateLimits(0, 100, clock)
    limits.charge("a", 60)
    limits.admit("a")
    clock.now += 30
    limits.charge("a", 60)
    with pytest.raises(TokenLimitExceeded) as caught:
        limits.admit("a")
    assert caught.value.retry_after_s == 30
    clock.now += 30
    limits.admit("a")


def test_tokens_at_the_limit() -> None:
    """A key that used exactly its tokens waits."""
    limits = RateLimits(0, 100, Clock())
    limits.charge("a", 100)
    with pytest.raises(TokenLimitExceeded):
        limits.admit("a")


def test_zero_is_no_limit() -> None:
    """A limit of 0 refuses nothing and remembers nothing."""
    limits = RateLimits(0, 0, Clock())
    for _ in range(1000):
        limits.admit("a")
        limits.charge("a", 10**9)


@given(st.integers(1, 5), st.lists(st.floats(0, 90), max_size=40))
def test_no_minute_holds_more(limit: int, pauses: list[float]) -> None:
    """However requests come, no 60 seconds admit more than the limit, and Retry-After is kept."""
    clock = Clock()
    limits, admitted = RateLimits(limit, 0, clock), []
    for pause in pauses:
        clock.now += pause
        wait_s = 0
        try:
            limits.admit("a")
        except RateLimitExceeded as error:
            wait_s = error.retry_after_s
        if wait_s:
            clock.now += wait_s
            limits.admit("a")
        assert wait_s <= 60
        admitted.append(clock.now)
    # The clock's own numbers round: a minute is one to a microsecond.
    assert all(late - early >= 60 - 1e-6 for early, late in zip(admitted, admitted[limit:], strict=False))
