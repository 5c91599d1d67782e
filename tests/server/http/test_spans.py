"""A candidate's phases, from what was written down of its way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from server.http.spans import _phases
from server.observe.trail import Mark, Step, Trail


@dataclass
class Told:
    scheduled: float


def trail(*marks: tuple[Step, float], scheduled: float = 0.0) -> Trail:
    return Trail(0, 0, [Mark(step, at, 7, Told(scheduled)) for step, at in marks])


def shown(one: Trail) -> list[tuple[str, float, float]]:
    return [(phase.name, phase.start, phase.end) for phase in _phases(one)]


WAY = (Step.QUEUED, 1.0), (Step.SENT, 2.0), (Step.BEGAN, 5.0), (Step.ENDED, 9.0)


@pytest.mark.parametrize(
    ("scheduled", "at"),
    [(3.0, 3.0), (0.0, 2.0), (1.5, 2.0), (5.5, 2.0)],
)
def test_prefill_begins_when_the_engine_says(scheduled: float, at: float) -> None:
    """Until then the candidate waits, in the engine. A time that cannot be is another clock's."""
    assert shown(trail(*WAY, scheduled=scheduled)) == [("queue", 1, at), ("prefill", at, 5), ("decode", 5, 9)]


def test_waits_follow_one_another() -> None:
    """What happens while it waits is an event: the reason is the first."""
    way = trail((Step.QUEUED, 1.0), (Step.LOADING, 2.0), (Step.SENT, 3.0), (Step.LOST, 4.0))
    way.marks += [Mark(Step.PUT_BACK, 4.5), Mark(Step.ENDED, 6.0)]
    assert shown(way) == [("queue", 1, 3), ("prefill", 3, 4), ("resumption", 4, 6)]
    queue, prefill, resumption = _phases(way)
    assert queue.events == [("loading", 2.0), ("sent", 3.0)]
    assert prefill.events == [("lost", 4.0)]
    assert prefill.attributes == {"verbatim.replica": 7}
    assert resumption.events == [("put back", 4.5)]


def test_another_key_takes_its_place() -> None:
    """It is in line again: that is no resumption."""
    way = trail(*WAY[:3], (Step.PUT_BACK, 6.0), (Step.SENT, 7.0), (Step.BEGAN, 8.0), (Step.ENDED, 9.0))
    assert [name for name, _, _ in shown(way)] == ["queue", "prefill", "decode", "queue", "prefill", "decode"]


def test_it_ends_in_line() -> None:
    """Its client has left, say."""
    assert shown(trail((Step.QUEUED, 1.0), (Step.ENDED, 2.0))) == [("queue", 1, 2)]
