from __future__ import annotations

import pytest

from server.config.replication import Replication
from server.engine.scaling import FULL, GROW_AFTER_S, SETTLE_S, Scale

PLACES = 10
SHRINK_S = 60.0


@pytest.fixture
def scale() -> Scale:
    return Scale(Replication(min=1, max=8, target_queue_s=2.0, shrink_after_s=SHRINK_S), PLACES, 1)


def run(scale: Scale, begin: float, seconds: float, wait_s: float, num_jobs: int, ready: int) -> int:
    """The same load for so long, looked at twice a second."""
    wanted = scale.wanted
    for half in range(int(2 * seconds) + 1):
        wanted = scale.look(begin + half / 2, wait_s, num_jobs, ready)
    return wanted


def test_it_grows_when_requests_wait_too_long(scale: Scale) -> None:
    """By one, when the wait is a little over the target; not for one long wait alone."""
    assert run(scale, 0, GROW_AFTER_S - 1, 2.5, 20, 1) == 1
    assert run(scale, 10, 1, 0.0, 20, 1) == 1
    assert run(scale, 20, GROW_AFTER_S, 2.5, 20, 1) == 2


def test_it_grows_as_the_wait_does(scale: Scale) -> None:
    """Twice as long as it may be: twice as many; never more than that at a time, and never more than most."""
    scale.wanted = 3
    assert run(scale, 0, GROW_AFTER_S, 4.0, 100, 3) == 6
    assert run(scale, 100, GROW_AFTER_S, 100.0, 100, 6) == 8


def test_it_waits_for_those_that_start(scale: Scale) -> None:
    """As long as one is not ready it says nothing of how many are needed, nor just after."""
    assert run(scale, 0, GROW_AFTER_S, 3.0, 50, 1) == 2
    assert run(scale, 10, 60, 30.0, 50, 1) == 2
    assert run(scale, 80, GROW_AFTER_S + SETTLE_S, 3.0, 50, 2) == 3


def test_it_shrinks_when_one_less_would_do(scale: Scale) -> None:
    """By one at a time, each after that time; not while the others would be full, nor below the least."""
    scale.wanted = 3
    few = int(FULL * PLACES * 2)
    assert run(scale, 0, 2 * SHRINK_S, 0.0, few + 1, 3) == 3
    assert run(scale, 1000, SHRINK_S, 0.0, few, 3) == 2
    assert run(scale, 2000, 5 * SHRINK_S, 0.0, 0, 2) == 1


def test_a_short_burst_keeps_it(scale: Scale) -> None:
    """What is too much now and then is not too much."""
    scale.wanted = 2
    for minute in range(5):
        run(scale, 60.0 * minute, 50, 0.0, 0, 2)
        assert run(scale, 60.0 * minute + 51, 1, 1.5, 15, 2) == 2


def test_a_fixed_number_stays(scale: Scale) -> None:
    """Where least and most are the same, nothing changes it."""
    scale = Scale(Replication(min=3, max=3, shrink_after_s=SHRINK_S), PLACES, 3)
    assert run(scale, 0, 100, 50.0, 500, 3) == 3
    assert run(scale, 200, 1000, 0.0, 0, 3) == 3
