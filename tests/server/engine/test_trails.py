"""What is written down of a candidate's way over engines."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Requester, Sink
from server.engine.simulated.engine import SimulatedEngine
from server.engine.turns import Turns
from server.engine.work import Work
from server.observe.trail import Step, Trail

JOB = Job("a", "r-a", [1, 2], GenerationParams(), (0,), 10)


class Hand(SimulatedEngine):
    """An engine that does what the test says."""

    def __init__(self) -> None:
        super().__init__(10)
        self.sinks: list[Sink] = []

    def submit(self, job: Job, sink: Sink) -> None:
        self.sinks.append(sink)

    def say(self, *token_ids: int, end: bool = False) -> None:
        self.sinks[-1](EngineOutput([*token_ids], None, None, "length" if end else None))


@pytest.fixture
def trail() -> Trail:
    return Trail(0, 0)


@pytest.fixture
def work(trail: Trail) -> Work:
    return Work(turns=Turns(1))


def submit(work: Work, trail: Trail) -> None:
    work.submit(replace(JOB, trail=trail), lambda output: None)


def steps(trail: Trail) -> list[Step]:
    return [mark.step for mark in trail.marks]


async def test_a_way_without_events(work: Work, trail: Trail) -> None:
    """Queued, sent, begun with the first token, ended with the last: a mark for none of those between."""
    work.begin(engine := Hand())
    submit(work, trail)
    for _ in range(5):
        engine.say(3)
    engine.say(3, end=True)
    assert steps(trail) == [Step.QUEUED, Step.SENT, Step.BEGAN, Step.ENDED]
    assert (len(trail.token_ids), trail.by_engine) == (6, True)
    times = [mark.at for mark in trail.marks]
    assert times == sorted(times)


async def test_this_server_ends_it(work: Work, trail: Trail) -> None:
    work.begin(engine := Hand())
    submit(work, trail)
    engine.say(3)
    work.abort("a")
    assert steps(trail)[-1] is Step.ENDED
    assert (len(trail.token_ids), trail.by_engine) == (1, False)


async def test_an_engine_is_lost_and_the_next_goes_on(work: Work, trail: Trail) -> None:
    """Whether it had a token or not; what an engine says later is with the sending that it is of."""
    work.begin(engine := Hand())
    submit(work, trail)
    engine.say(3)
    work.lose()
    work.begin(engine := Hand())
    work.lose()
    work.begin(engine := Hand())
    engine.say(3, end=True)
    lost = [Step.LOST, Step.PUT_BACK]
    first = [Step.QUEUED, Step.SENT, Step.BEGAN, *lost, Step.SENT, *lost]
    assert steps(trail) == [*first, Step.SENT, Step.BEGAN, Step.ENDED]


async def test_it_is_paused(work: Work, trail: Trail) -> None:
    """It is in the queue again when it may go on; and it may end before."""
    work.begin(engine := Hand())
    submit(work, trail)
    engine.say(3)
    work.pause("a")
    work.unpause("a")
    engine.say(3)
    work.pause("a")
    work.abort("a")
    once = [Step.QUEUED, Step.SENT, Step.BEGAN, Step.PAUSED]
    assert steps(trail) == [*once, *once, Step.ENDED]
    assert trail.token_ids == [3, 3]


async def test_an_engine_is_taken_back(work: Work, trail: Trail) -> None:
    work.begin(Hand())
    submit(work, trail)
    work.recall()
    assert steps(trail) == [Step.QUEUED, Step.SENT, Step.RECALLED, Step.PUT_BACK]


async def test_it_waits_for_its_model(work: Work, trail: Trail) -> None:
    work.hold()
    submit(work, trail)
    work.begin(Hand())
    assert steps(trail) == [Step.QUEUED, Step.LOADING]
    work.go_on()
    assert steps(trail) == [Step.QUEUED, Step.LOADING, Step.SENT]


async def test_a_more_urgent_one_gets_its_place(work: Work, trail: Trail) -> None:
    """It is put back, and it is nobody's death."""
    work.begin(Hand())
    submit(work, trail)
    work.submit(replace(JOB, id="b", requester=Requester("other", priority=-1)), lambda output: None)
    assert steps(trail) == [Step.QUEUED, Step.SENT, Step.PUT_BACK]


async def test_the_replica_is_named(work: Work, trail: Trail) -> None:
    work.begin(Hand(), 3)
    submit(work, trail)
    assert [mark.replica for mark in trail.marks if mark.step is Step.SENT] == [3]


async def test_without_a_trail_nothing_is_watched(work: Work) -> None:
    """A job that nobody follows costs no more than before."""
    work.begin(Hand())
    work.submit(JOB, lambda output: None)
    (ticket,) = work._tickets.values()
    assert not ticket.is_watched
