"""Claims about time on a machine that may be busy with something else.

That only ever makes a thing take longer: the least of several times counts. What takes little, takes little
beside something else of the same test.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

from tests.serving import wait_for


def cost_s(work: Callable[[], object], *, times: int = 5) -> float:
    """Seconds of processor that it takes, while Python collects no garbage of other tests."""
    return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=times))


def assert_within(limit_s: float, attempt: Callable[[], float], *, times: int = 3) -> None:
    """One of up to three attempts, each of which says how many seconds it took, keeps the limit."""
    took: list[float] = []
    while not took or took[-1] > limit_s:
        assert len(took) < times, f"not within {limit_s:g} s, but after {took}"
        took.append(attempt())


def seconds_until(condition: Callable[[], object]) -> float:
    """How long it takes until this is true."""
    began = time.monotonic()
    wait_for(condition, 30)
    return time.monotonic() - began
