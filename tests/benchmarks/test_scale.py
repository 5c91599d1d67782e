"""What becomes of a cluster as it grows."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import scale
from benchmarks.fleet import costs


def test_a_line_of_scale_in_a_moment() -> None:
    """Where the front ends have more to do than there is time, no wait is told; a longer reading of /metrics
    is seen in the longest waits alone."""
    one = scale.Measured(1e-4, 200.0, 0.001, 1000, {1: 0.001})
    few, many = (scale.row(num, 1, one, 2e-6, 1e-5, 2000) for num in (8, 1000))
    assert many["sent_after_s"] == {}
    assert many["busy"] > 1
    slow = scale.row(8, 1, replace(one, scrape_s=1.0), 2e-6, 1e-5, 2000)
    assert slow["sent_after_s"]["p50"] == pytest.approx(few["sent_after_s"]["p50"], rel=0.2)
    assert slow["sent_after_s"]["p99"] > 0.5 > few["sent_after_s"]["p99"]


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """Of other tests, that Python would look for in the middle of a measurement."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage")
def test_costs_are_those_of_the_servers_code() -> None:
    """A job's way, a step and /metrics cost something, and more where there is more."""
    assert 0 < costs.routed_s(2, 100, 20) < costs.routed_s(200, 100, 20)
    assert 0 < costs.step_s(1, 50) < costs.step_s(2048, 50)
    assert costs.scrape(1)[1] < costs.scrape(4)[1]
    assert 100 < costs.block_bytes(4, 4000) < 500
