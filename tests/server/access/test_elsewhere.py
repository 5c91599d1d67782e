from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.elsewhere import Elsewhere, Used
from server.access.limits import RateLimits
from server.access.tallies import Tallies
from server.access.terms import Key
from server.errors import RateLimitExceeded


class FrontEnd:
    """One of a cluster, with a clock of its own: machines do not share theirs."""

    def __init__(self, now: float, **limits: int) -> None:
        self.now = now
        self.key = Key("a", **limits)
        tallies = Tallies()
        self.limits = RateLimits(tallies, lambda: self.now)
        self.elsewhere = Elsewhere(tallies)
        self.tally = tallies.of("a")

    def ask(self, tokens: int = 0) -> None:
        """A request that has ended."""
        allowance = self.limits.of(self.key)
        allowance.begin()
        allowance.reserve(tokens)
        allowance.end()

    def totals(self) -> tuple[int, int]:
        return self.tally.requests.total(self.now), self.tally.tokens.total(self.now)


def exchange(one: FrontEnd, other: FrontEnd) -> None:
    """Each tells the other, as by way of the keeper."""
    mine, its = one.elsewhere.mine(one.now), other.elsewhere.mine(other.now)
    one.elsewhere.take(its, one.now)
    other.elsewhere.take(mine, other.now)


@pytest.fixture
def pair() -> tuple[FrontEnd, FrontEnd]:
    return FrontEnd(1000.25, requests_per_minute=5), FrontEnd(77_000.5, requests_per_minute=5)


def test_a_limit_holds_over_front_ends(pair: tuple[FrontEnd, FrontEnd]) -> None:
    """What a key has used on one counts on the other, once it is told."""
    one, other = pair
    for _ in range(3):
        one.ask()
    other.ask()
    exchange(one, other)
    other.ask()
    with pytest.raises(RateLimitExceeded):
        other.ask()


def test_what_is_told_holds_for_a_minute() -> None:
    """Also what runs there: without the keeper, a key whose requests ran elsewhere is not locked out here."""
    one, other = (FrontEnd(now, concurrent_requests=1) for now in (1000.0, 77_000.0))
    other.limits.of(other.key).begin()
    exchange(one, other)
    with pytest.raises(RateLimitExceeded):
        one.ask()
    one.now += 61
    one.elsewhere.mine(one.now)
    one.ask()


def test_what_was_told_is_not_told_back(pair: tuple[FrontEnd, FrontEnd]) -> None:
    """However often they exchange, each request counts once on each front end."""
    one, other = pair
    one.ask()
    other.ask()
    for _ in range(5):
        exchange(one, other)
        one.now += 0.5
        other.now += 0.5
    assert one.totals()[0] == other.totals()[0] == 2


def test_what_is_given_back_is_given_back_everywhere() -> None:
    """Tokens that a request had reserved and has not used count nowhere any more."""
    one, other = FrontEnd(10.0, tokens_per_minute=1000), FrontEnd(20.0, tokens_per_minute=1000)
    allowance = one.limits.of(one.key)
    allowance.begin()
    allowance.reserve(500)
    exchange(one, other)
    assert other.totals()[1] == 500
    allowance.settle(20)
    exchange(one, other)
    assert other.totals()[1] == 20


def test_a_front_end_that_is_gone_counts_no_more(pair: tuple[FrontEnd, FrontEnd]) -> None:
    """Nor do its running requests."""
    one, other = pair
    allowance = one.limits.of(one.key)
    allowance.begin()
    exchange(one, other)
    assert (other.totals()[0], other.tally.running) == (1, 1)
    other.elsewhere.take({}, other.now)
    assert (other.totals()[0], other.tally.running) == (0, 0)


def test_running_requests_are_of_all_front_ends() -> None:
    """A key that has as many running elsewhere as it may have may not begin another one."""
    one, other = FrontEnd(10.0, concurrent_requests=1), FrontEnd(20.0, concurrent_requests=1)
    one.limits.of(one.key).begin()
    exchange(one, other)
    with pytest.raises(RateLimitExceeded):
        other.ask()


def test_what_is_old_elsewhere_is_old_here(pair: tuple[FrontEnd, FrontEnd]) -> None:
    """A minute after it was used it counts nowhere, a second more or less."""
    one, other = pair
    one.ask()
    one.now += 40
    other.now += 40
    exchange(one, other)
    other.now += 21.1
    assert other.totals()[0] == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["one", "other", "exchange", "wait"]), st.floats(0.01, 3.0)), max_size=60
    )
)
def test_after_an_exchange_both_have_counted_all(steps: list[tuple[str, float]]) -> None:
    """Whatever came before, in whatever order: the sum of both, as long as nothing is a minute old."""
    one, other = FrontEnd(1000.0, requests_per_minute=10**6), FrontEnd(0.4, requests_per_minute=10**6)
    count, passed = 0, 0.0
    for what, seconds in steps:
        if what == "exchange":
            exchange(one, other)
        elif what != "wait":
            (one if what == "one" else other).ask()
            count += 1
        elif passed + seconds < 55:
            passed += seconds
            one.now += seconds
            other.now += seconds
    exchange(one, other)
    assert one.totals()[0] == other.totals()[0] == count


def test_nothing_is_told_of_keys_without_requests() -> None:
    """There is nothing to say of them."""
    assert Elsewhere(Tallies()).mine(0.0) == {}
    assert Used() == Used([], [], 0)
