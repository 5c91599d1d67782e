"""Several engines of one model, and the jobs that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.contract.params import GenerationParams
from server.engine.admission import check_room
from server.engine.base import EngineOutput, Job, Phase, Report, Status
from server.engine.handover import hand_over
from server.engine.prefixes import chain
from server.engine.replicas import Replicas
from server.engine.simulated.engine import SimulatedEngine
from server.engine.supervisor import Patience
from server.engine.work import Work
from server.errors import ConfigurationError, EngineFailed, RequestFailure, ServiceUnavailable
from tests.helpers import until
from tests.server.engine.test_work import Hand, job

LONG = 10_000
Got = list[EngineOutput | RequestFailure]


def long_job(name: str, prompt: int = 5) -> Job:
    return Job(name, name, [prompt] * 400, GenerationParams(), (), LONG)


class Sick(SimulatedEngine):
    """Does not start, with this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(10)
        self.error = error

    async def start(self, report: Report) -> None:
        raise self.error


def slow() -> SimulatedEngine:
    return SimulatedEngine(10, script=lambda job, position: position % 10, step_s=0.001)


class Fleet:
    """Replicas of slow engines. made: those of each number, in order. sick: the errors that the next ones of
    a number do not start with."""

    def __init__(self, count: int, *, min_ready: int = 1, backoff_s: tuple[float, ...] = (0.0, 60.0)) -> None:
        self.made: dict[int, list[SimulatedEngine]] = {}
        self.sick: dict[int, Exception] = {}
        self.replicas = Replicas("m", self.make, count, min_ready=min_ready, patience=Patience(backoff_s))

    def make(self, number: int) -> SimulatedEngine:
        engine = Sick(self.sick[number]) if number in self.sick else slow()
        self.made.setdefault(number, []).append(engine)
        return engine

    def last(self, number: int) -> SimulatedEngine:
        return self.made[number][-1]

    @asynccontextmanager
    async def running(self, num_ready: int) -> AsyncIterator[Replicas]:
        task = asyncio.create_task(self.replicas.run())
        try:
            await until(lambda: self.replicas.num_ready == num_ready)
            yield self.replicas
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def holder(self, name: str) -> int:
        """The replica that works on that job."""
        return next(
            k for k, made in self.made.items() if any(one.startswith(name) for one in made[-1].running)
        )


def tokens(got: Got) -> list[int]:
    return [token for output in got if isinstance(output, EngineOutput) for token in output.token_ids]


async def test_what_a_lost_one_worked_on_goes_on_elsewhere_at_once() -> None:
    """In the middle of its text, though its own engine does not come back."""
    got: Got = []
    fleet = Fleet(2, backoff_s=(0.0, 60.0))
    async with fleet.running(2) as replicas:
        replicas.submit(long_job("a"), got.append)
        await until(lambda: len(got) > 3)
        lost = fleet.holder("a")
        fleet.sick[lost] = EngineFailed("no memory")
        fleet.last(lost).death.set()
        await until(lambda: fleet.holder("a") == 1 - lost)
        at_change = len(got)
        await until(lambda: len(got) > at_change + 3)
        assert replicas.status.ready
        assert replicas.work.num_resuming == 0
        assert tokens(got) == [k % 10 for k in range(len(tokens(got)))]


async def test_a_dead_one_takes_no_new_work() -> None:
    """And the model takes as much as before."""
    fleet = Fleet(2)
    async with fleet.running(2) as replicas:
        fleet.sick[0] = EngineFailed("no memory")
        fleet.last(0).death.set()
        await until(lambda: replicas.num_ready == 1)
        for number in range(8):
            check_room(replicas, 1)
            replicas.submit(long_job(str(number), number), lambda output: None)
        await until(lambda: len(fleet.last(1).running) == 8)


async def test_min_ready() -> None:
    """With fewer than that the model is not ready, says so, and refuses requests."""
    fleet = Fleet(3, min_ready=2)
    fleet.sick = {0: EngineFailed("no"), 1: EngineFailed("no")}
    async with fleet.running(1) as replicas:
        assert not replicas.status.ready
        assert replicas.status.detail == "the engine did not start: no"
        with pytest.raises(ServiceUnavailable):
            check_room(replicas, 1)
        fleet.sick.clear()
        replicas.add(3)
        await until(lambda: replicas.status.ready)
        check_room(replicas, 1)


async def test_one_that_can_never_start_leaves_the_others() -> None:
    """A replica whose configuration is wrong fails for good; the last of them ends the model."""
    fleet = Fleet(2)
    fleet.sick[1] = ConfigurationError("no such GPU")
    async with fleet.running(1) as replicas:
        await until(lambda: replicas.statuses[1] == Status(Phase.FAILED, detail="no such GPU"))
        assert replicas.status.ready
    fleet = Fleet(2)
    fleet.sick = {0: ConfigurationError("no such GPU"), 1: ConfigurationError("no such GPU")}
    with pytest.raises(ConfigurationError):
        await fleet.replicas.run()


async def test_one_after_another_is_replaced() -> None:
    """When engines are handed over, all but one are always ready, and nothing is lost."""
    got: dict[str, Got] = {name: [] for name in "abcdef"}
    fleet = Fleet(3)
    least = 3
    async with fleet.running(3) as replicas:
        for number, name in enumerate(got):
            replicas.submit(long_job(name, number), got[name].append)
        await until(lambda: all(map(tokens, got.values())))

        async def watch() -> None:
            nonlocal least
            while True:
                least = min(least, replicas.num_ready)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await hand_over(replicas, fleet.make)
        watching.cancel()
        await until(lambda: replicas.num_ready == 3)
        length = {name: len(tokens(one)) for name, one in got.items()}
        await until(lambda: all(len(tokens(one)) > length[name] + 2 for name, one in got.items()))
        for one in got.values():
            assert tokens(one) == [k % 10 for k in range(len(tokens(one)))]
    assert least == 2
    assert [len(made) for made in fleet.made.values()] == [2, 2, 2]


async def test_all_go_back_where_one_does_not_start() -> None:
    """Those that were replaced before it, too."""
    fleet, bad = Fleet(2), Fleet(2)
    bad.sick[1] = EngineFailed("no memory")
    async with fleet.running(2) as replicas:
        with pytest.raises(EngineFailed, match="no memory"):
            await hand_over(replicas, bad.make)
        await until(lambda: replicas.num_ready == 2)
        assert {k: len(made) for k, made in fleet.made.items()} == {0: 2, 1: 2}


async def test_more_and_fewer() -> None:
    """One that is added takes work; what one that is removed worked on goes on elsewhere."""
    got: Got = []
    fleet = Fleet(1)
    async with fleet.running(1) as replicas:
        replicas.submit(long_job("a"), got.append)
        await until(lambda: len(got) > 2)
        replicas.add(1)
        await until(lambda: replicas.num_ready == 2)
        await replicas.remove(0)
        await until(lambda: any(one.startswith("a") for one in fleet.last(1).running))
        assert fleet.last(0).running == set()
        at_change = len(got)
        await until(lambda: len(got) > at_change + 2)
        assert tokens(got) == [k % 10 for k in range(len(tokens(got)))]


async def test_candidates_of_a_prompt_are_together() -> None:
    """Those of another prompt are elsewhere."""
    work, engines = Work(), [Hand(), Hand()]
    for number, engine in enumerate(engines):
        work.begin(engine, number)
    for prompt in (3, 4):
        for k in range(4):
            work.submit(long_job(f"{prompt}-{k}", prompt), lambda output: None)
    assert sorted(len(engine.jobs) for engine in engines) == [4, 4]
    assert [len({name[0] for name in engine.jobs}) for engine in engines] == [1, 1]


async def test_those_that_were_replaced_go_back() -> None:
    """All of them, though one of them does not: where the last one does not start."""
    fleet = Fleet(3)
    new: list[SimulatedEngine] = []

    def make(number: int) -> SimulatedEngine:
        if number == 2:
            fleet.sick[0] = EngineFailed("no way back")
            return Sick(EngineFailed("no memory"))
        new.append(slow())
        return new[-1]

    async with fleet.running(3) as replicas:
        with pytest.raises(EngineFailed, match="no memory"):
            await hand_over(replicas, make)
        await until(lambda: replicas.num_ready == 3)
        assert replicas.supervisors[1]._engine is fleet.last(1)
        assert replicas.supervisors[0]._engine is new[-1]


async def test_no_more_have_to_be_ready_than_there_are() -> None:
    """So that a reload that brings none leaves the model as ready as it was."""
    fleet = Fleet(1, min_ready=2)
    async with fleet.running(1) as replicas:
        assert replicas.status.ready
        check_room(replicas, 1)


async def test_without_resuming_only_what_was_there_fails() -> None:
    """What another replica works on goes on."""
    work, engines = Work(resume=False), [Hand(), Hand()]
    got: dict[str, Got] = {"a": [], "b": []}
    for number, engine in enumerate(engines):
        work.begin(engine, number)
    for name, prompt in (("a", 3), ("b", 4)):
        work.submit(long_job(name, prompt), got[name].append)
    of_a = next(number for number, engine in enumerate(engines) if "a" in engine.jobs)
    assert "b" in engines[1 - of_a].jobs
    work.lose(of_a)
    await asyncio.sleep(0)
    assert isinstance(got["a"][0], ServiceUnavailable)
    assert got["b"] == []


async def test_a_suspect_is_tried_beside_what_runs() -> None:
    """It has an engine to itself, and those that others work on are left alone."""
    work, engines = Work(), {number: Hand() for number in range(3)}
    for number, engine in engines.items():
        work.begin(engine, number)

    def holder(name: str) -> int:
        return next(
            k for k, one in engines.items() if any(n.startswith(name) and n not in one.gone for n in one.jobs)
        )

    work.submit(job("bad"), lambda output: None)
    work.submit(job("good", num_logprobs=None), lambda output: None)
    for _ in range(2):
        lost = holder("bad")
        work.lose(lost)
        engines[lost] = Hand()
        work.begin(engines[lost], lost)
        await asyncio.sleep(0)
    assert list(engines[holder("bad")].jobs) == ["bad.2"]


async def test_the_engine_that_says_nothing_is_passed_over() -> None:
    """A prompt that waits for its first token for long makes its replica costly, whatever it holds."""
    work, engines = Work(), [Hand(), Hand()]
    for number, engine in enumerate(engines):
        work.begin(engine, number)
    work.submit(long_job("a"), lambda output: None)
    silent = next(number for number, engine in enumerate(engines) if engine.jobs)
    for route in work._replicas[silent].unread.values():
        route.sent_at -= 10
    work.submit(long_job("b"), lambda output: None)
    assert "b" in engines[1 - silent].jobs


async def test_a_cache_is_as_large_as_its_engine_says() -> None:
    """What an engine has no room for any more is not looked for there."""
    work, engines = Work(), [Hand(), Hand()]
    for number, engine in enumerate(engines):
        engine.cache_tokens = 400
        work.begin(engine, number)
    for prompt in (3, 4, 5):
        work.submit(long_job(f"{prompt}", prompt), lambda output: None)
    held = work.router.prefixes.held
    of = {prompt: max(held(chain([prompt] * 400), [0, 1]).values()) for prompt in (3, 4, 5)}
    assert sorted(of.values()) == [0, 25, 25]
