from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.limits import UNLIMITED, Allowance, Left, RateLimits
from server.access.memory import Memory
from server.access.tallies import Tallies
from server.access.terms import Key
from server.errors import RateLimitExceeded, TokenLimitExceeded


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Limits:
    """The limits of one key, on a clock of its own."""

    def __init__(self, requests: int = 0, tokens: int = 0, concurrent: int = 0) -> None:
        self.clock = Clock()
        self.key = Key(
            "a", requests_per_minute=requests, tokens_per_minute=tokens, concurrent_requests=concurrent
        )
        self.limits = RateLimits(Tallies(), self.clock)

    def begin(self) -> Allowance:
        allowance = self.limits.of(self.key)
        allowance.begin()
        return allowance

    def use(self, tokens: int, most: int | None = None) -> None:
        """A request that takes no time."""
        allowance = self.begin()
        allowance.reserve(tokens if most is None else most)
        allowance.settle(tokens)
        allowance.end()

    def refusal(self) -> RateLimitExceeded:
        with pytest.raises(RateLimitExceeded) as caught:
            self.begin()
        return caught.value


def test_requests_per_minute() -> None:
    """The request after the last allowed one is refused, and says when the next is allowed."""
    limits = Limits(requests=2)
    limits.begin()
    limits.clock.now += 10
    limits.begin()
    assert limits.refusal().retry_after_s == 50
    limits.clock.now += 50
    limits.begin()


def test_refused_requests_do_not_count() -> None:
    """A client that goes on asking is let in again at the promised time."""
    limits = Limits(requests=1)
    limits.begin()
    for _ in range(59):
        limits.clock.now += 1
        limits.refusal()
    limits.clock.now += 1
    limits.begin()


def test_keys_do_not_share() -> None:
    """One key's requests and tokens leave another's alone."""
    limits = Limits(requests=1, tokens=1)
    limits.use(5)
    limits.key = Key("b", requests_per_minute=1, tokens_per_minute=1)
    limits.use(5)


def test_tokens_per_minute() -> None:
    """The request that crosses the limit is answered; the next waits until enough tokens are a minute old."""
    limits = Limits(tokens=100)
    limits.use(60)
    limits.clock.now += 30
    limits.use(60)
    failure = limits.refusal()
    assert isinstance(failure, TokenLimitExceeded)
    assert failure.retry_after_s == 30
    limits.clock.now += 30
    limits.begin()


def test_tokens_at_the_limit() -> None:
    """A key that used exactly its tokens waits."""
    limits = Limits(tokens=100)
    limits.use(100)
    limits.refusal()


def test_tokens_count_from_the_beginning() -> None:
    """What a request may take counts while it runs; what it has not used is given back at its end."""
    limits = Limits(tokens=100)
    allowance = limits.begin()
    allowance.reserve(1000)
    limits.refusal()
    allowance.settle(10)
    assert limits.begin().tokens_left() == Left(100, 90, 60.0)


def test_settled_later_than_a_minute() -> None:
    """Then it has been forgotten already, and takes nothing from what others have used since."""
    limits = Limits(tokens=100)
    allowance = limits.begin()
    allowance.reserve(1000)
    limits.clock.now += 64  # the same place of the window
    limits.use(70)
    allowance.settle(1)
    assert limits.begin().tokens_left() == Left(100, 30, 60.0)


def test_refused_for_its_tokens_it_does_not_count() -> None:
    """Of requests that begin together the first to know its tokens may cross the limit; others are refused,
    and are no requests of this minute."""
    limits = Limits(requests=3, tokens=100)
    first, second = limits.begin(), limits.begin()
    first.reserve(100)
    with pytest.raises(TokenLimitExceeded):
        second.reserve(1)
    assert second.requests_left() == Left(3, 2, 60.0)


def test_concurrent_requests() -> None:
    """As many run as may, and one that ends makes room for the next."""
    limits = Limits(concurrent=2)
    first, _ = limits.begin(), limits.begin()
    assert "has 2 requests running, and may have at most 2" in limits.refusal().message
    first.end()
    first.end()
    limits.begin()
    limits.refusal()


def test_retry_after_of_concurrent_requests() -> None:
    """It is when one of them will have ended, from how long the last ones took."""
    limits = Limits(concurrent=2)
    assert [limits.begin(), limits.begin(), limits.refusal().retry_after_s][2] == 1  # nothing is known
    limits = Limits(concurrent=2)
    first, _ = limits.begin(), limits.begin()
    limits.clock.now += 20
    first.end()
    limits.begin()
    assert limits.refusal().retry_after_s == 10


def test_refused_for_another_limit_it_does_not_count() -> None:
    """A request that is one too many at the same time is none of this minute."""
    limits = Limits(requests=2, concurrent=1)
    first = limits.begin()
    limits.refusal()
    first.end()
    assert limits.begin().requests_left() == Left(2, 0, 60.0)


def test_zero_is_no_limit() -> None:
    """A limit of 0 refuses nothing, says nothing and remembers nothing."""
    limits = Limits()
    for _ in range(100):
        limits.use(10**9)
    assert limits.begin() is UNLIMITED
    assert (UNLIMITED.requests_left(), UNLIMITED.tokens_left()) == (None, None)


def test_what_is_left() -> None:
    """Of each limit that there is; the last that was counted says when all of it is there again."""
    limits = Limits(requests=5)
    limits.begin()
    limits.clock.now += 10
    limits.begin()
    limits.clock.now += 20
    left = limits.limits.of(limits.key)
    assert (left.requests_left(), left.tokens_left()) == (Left(5, 5, 0.0), None)  # it has not begun
    left.begin()
    limits.clock.now += 10
    assert left.requests_left() == Left(5, 2, 50.0)


def test_changed_limits_hold_at_once() -> None:
    """What was counted before stays."""
    limits = Limits(requests=1)
    limits.begin()
    limits.key = Key("a", requests_per_minute=2)
    limits.begin()
    limits.refusal()


@given(st.integers(1, 5), st.lists(st.floats(0, 90), max_size=40))
def test_no_minute_holds_more(limit: int, pauses: list[float]) -> None:
    """However requests come, no 60 seconds admit more than the limit, and Retry-After is kept."""
    limits, admitted = Limits(requests=limit), []
    for pause in pauses:
        limits.clock.now += pause
        wait_s = 0
        try:
            limits.begin()
        except RateLimitExceeded as error:
            wait_s = error.retry_after_s
        if wait_s:
            limits.clock.now += wait_s
            limits.begin()
        assert wait_s <= 60
        admitted.append(limits.clock.now)
    # The clock's own numbers round: a minute is one to a microsecond.
    assert all(late - early >= 60 - 1e-6 for early, late in zip(admitted, admitted[limit:], strict=False))


def test_no_room_for_a_tally(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full a request is answered without being counted, and the log says so."""
    limits = RateLimits(Tallies(tmp_path / "tallies"), Clock())

    def full(self: Memory, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Memory, "grow", full)
    with caplog.at_level(logging.ERROR):
        allowance = limits.of(Key("a", requests_per_minute=1, tokens_per_minute=1))
        allowance.begin()
        allowance.reserve(5)
        allowance.settle(1)
        allowance.end()
    assert (
        "requests of the API key a are not counted towards its limits: No space left on device" in caplog.text
    )
    assert allowance.requests_left() == Left(1, 1, 0.0)
