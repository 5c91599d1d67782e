from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import server.engine.supervisor as supervisor_module
from server.contract.params import GenerationParams
from server.engine.admission import check_room
from server.engine.base import NOBODY, Death, Engine, EngineOutput, Job, Phase, Report, Status
from server.engine.handover import hand_over
from server.engine.replicas import Replicas
from server.engine.simulated.engine import SimulatedEngine
from server.engine.supervisor import BACKOFF_S, Patience
from server.errors import ConfigurationError, EngineFailed, RequestFailure, ServiceUnavailable
from tests.helpers import until

JOB = Job("j", "r", [5], GenerationParams(), (1,), max_tokens=10_000)


class Sick(SimulatedEngine):
    """Does not start, with this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(10)
        self.error = error
        self.closed = 0

    async def start(self, report: Report) -> None:
        report(Status(Phase.LOADING))
        raise self.error

    async def close(self) -> None:
        self.closed += 1
        await super().close()


class Patient:
    """A supervisor of engines that are made one after another; what became of each."""

    def __init__(
        self,
        *engines: Engine,
        backoff_s: tuple[float, ...] = (0.0,),
        max_pending: int = 10,
        keep_trying: bool = True,
    ) -> None:
        self.engines = list(engines)
        self.made: list[float] = []
        patience = Patience(backoff_s, keep_trying)
        self.supervisor = Replicas("m", self.make, max_pending=max_pending, patience=patience)

    def make(self, number: int) -> Engine:
        self.made.append(asyncio.get_running_loop().time())
        return self.engines[min(len(self.made), len(self.engines)) - 1]

    @asynccontextmanager
    async def treated(self) -> AsyncIterator[Replicas]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield self.supervisor
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def slow() -> SimulatedEngine:
    return SimulatedEngine(10, script=lambda job, position: 5, step_s=0.001)


def collect(into: list[EngineOutput | RequestFailure]) -> Callable[[EngineOutput | RequestFailure], None]:
    return into.append


async def test_life() -> None:
    """An engine waits, starts, is ready and is stopped; each phase is seen from outside."""
    patient = Patient(slow())
    assert patient.supervisor.status.phase is Phase.WAITING
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
    assert supervisor.status.phase is Phase.STOPPED


async def test_without_resuming_a_death_fails_what_runs() -> None:
    """When an engine dies, its jobs fail at once, and the model takes nothing."""
    got: list[EngineOutput | RequestFailure] = []
    patient = Patient(engine := slow(), slow(), backoff_s=(0.0, 60.0))
    patient.supervisor.work.resume = False
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.submit(JOB, collect(got))
        await until(lambda: got)
        engine.death.set()
        await until(lambda: not supervisor.status.ready)
        assert supervisor.status.phase is Phase.RESTARTING
        assert isinstance(got[-1], ServiceUnavailable)
        assert (supervisor.pending, engine.running) == (0, set())
        with pytest.raises(ServiceUnavailable):
            check_room(supervisor, 1)


async def test_started_again() -> None:
    """After its death an engine is made anew and answers."""
    patient = Patient(first := slow(), second := slow())
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        first.death.set()
        await until(lambda: supervisor.status.ready and supervisor.restarts == 1)
        got: list[EngineOutput | RequestFailure] = []
        supervisor.submit(JOB, collect(got))
        await until(lambda: got)
        assert second.running == {"j"}
        assert isinstance(got[0], EngineOutput)


async def test_backoff() -> None:
    """Each failure in a row is waited for longer, up to the last delay."""
    delays = (0.0, 0.02, 0.1)
    engines = [Sick(RuntimeError(f"no {letter}")) for letter in "abcdef"]
    patient = Patient(*engines, backoff_s=delays)
    async with patient.treated() as supervisor:
        await until(lambda: len(patient.made) == 5)
    waits = [later - earlier for earlier, later in zip(patient.made, patient.made[1:], strict=False)]
    assert all(wait >= least for wait, least in zip(waits, (0.02, 0.1, 0.1, 0.1), strict=True))
    assert waits[0] < 0.1
    assert supervisor.restarts == len(patient.made)


async def test_jobs_are_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often engines have died, the next one is started soon where jobs wait for it."""
    monkeypatch.setattr(supervisor_module, "WANTED_S", 0.05)
    patient = Patient(first := slow(), second := slow(), backoff_s=(0.0, 60.0))
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.submit(JOB, lambda output: None)
        first.death.set()
        await until(lambda: second.running)
    assert patient.made[1] - patient.made[0] >= 0.05


async def test_the_same_failure_waits_longest() -> None:
    """After three starts that have failed alike, numbers aside, there is no use in hurrying."""
    engines = [Sick(EngineFailed(f"out of memory, {number} bytes free")) for number in range(6)]
    patient = Patient(*engines, backoff_s=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 60.0))
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.restarts == 3)
        await asyncio.sleep(0.05)
        assert len(patient.made) == 3


async def test_the_only_engine_is_given_up() -> None:
    """The third failure alike is raised, with the engine's own reason; what fails in another way each time is
    tried again."""
    words = ("killed", "out of memory", "killed", "killed", "killed")
    patient = Patient(*(Sick(EngineFailed(word)) for word in words), keep_trying=False)
    with pytest.raises(EngineFailed, match="model m: the engine did not start: killed"):
        await patient.supervisor.run()
    assert (len(patient.made), patient.supervisor.status.phase) == (5, Phase.STOPPED)


async def test_a_death_is_no_failed_start() -> None:
    """An engine that was ready and has died is started again, however often."""
    engines = [slow() for _ in range(6)]
    patient = Patient(*engines, keep_trying=False)
    async with patient.treated() as supervisor:
        for number, engine in enumerate(engines[:5]):
            await until(lambda: supervisor.status.ready)
            engine.death.set()
            await until(lambda number=number: supervisor.restarts == number + 1)  # type: ignore[misc]


async def test_an_engine_that_cannot_be_watched_is_dead() -> None:
    """An error in the watching of it is not the end of the server."""

    class Unwatched(SimulatedEngine):
        async def died(self) -> Death:
            raise ValueError("no news")

    async with Patient(Unwatched(10), slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready and supervisor.restarts == 1)


async def test_the_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """In the status until an engine is ready, to whoever asks for something, and in the log."""
    patient = Patient(Sick(EngineFailed("the disk is full")), slow(), backoff_s=(0.0, 0.05))
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.status.detail == "the engine did not start: the disk is full"
        with pytest.raises(ServiceUnavailable, match=r"not ready: restarting .*the disk is full"):
            check_room(supervisor, 1)
        await until(lambda: supervisor.status.ready)
        assert supervisor.status.detail == ""
    assert "the disk is full" in caplog.text
    assert "Traceback" not in caplog.text


def test_backoff_values() -> None:
    """The first start does not wait; later ones wait longer each time, a minute at most."""
    assert BACKOFF_S[0] == 0
    assert list(BACKOFF_S) == sorted(BACKOFF_S)
    assert BACKOFF_S[-1] == 60


async def test_failed_start_is_closed() -> None:
    """An engine that did not start is closed all the same: it may have started processes."""
    patient = Patient(engine := Sick(RuntimeError("no")), slow())
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        assert engine.closed == 1
        assert supervisor.restarts == 1


async def test_configuration_error_ends_it() -> None:
    """What no second try would mend is raised, and nothing is left open."""
    patient = Patient(engine := Sick(ConfigurationError("no such argument")))
    with pytest.raises(ConfigurationError, match="no such argument"):
        await patient.supervisor.run()
    assert (engine.closed, patient.supervisor.status.phase, len(patient.made)) == (1, Phase.STOPPED, 1)


async def test_stopping_fails_what_runs() -> None:
    """When the server stops, what is still running fails."""
    got: list[EngineOutput | RequestFailure] = []
    async with Patient(engine := slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.submit(JOB, collect(got))
        await until(lambda: got)
    assert isinstance(got[-1], ServiceUnavailable)
    assert engine.running == set()


async def test_not_ready() -> None:
    """Before it is ready an engine takes nothing, and says when to come again."""
    supervisor = Patient(slow()).supervisor
    with pytest.raises(ServiceUnavailable, match="m is not ready: waiting") as caught:
        check_room(supervisor, 1)
    assert 0 < caught.value.retry_after_s <= 60
    got: list[EngineOutput | RequestFailure] = []
    supervisor.submit(JOB, collect(got))
    assert isinstance(got[0], ServiceUnavailable)


class Unready(SimulatedEngine):
    """Starts for ever."""

    async def start(self, report: Report) -> None:
        report(Status(Phase.LOADING))
        await asyncio.Event().wait()


async def test_starting() -> None:
    """An engine that is there and not ready takes nothing either."""
    got: list[EngineOutput | RequestFailure] = []
    async with Patient(engine := Unready(10)).treated() as supervisor:
        await until(lambda: supervisor.status.phase is Phase.LOADING)
        supervisor.submit(JOB, collect(got))
        assert isinstance(got[0], ServiceUnavailable)
        assert engine.running == set()


async def test_a_long_life_wipes_the_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that was ready for long is started again as after a first failure."""
    monkeypatch.setattr(supervisor_module, "STABLE_S", 0.02)
    sick = [Sick(ValueError("no")) for _ in range(2)]
    patient = Patient(*sick, stable := slow(), slow(), backoff_s=(0.0, 0.0, 0.0, 60.0))
    async with patient.treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        await asyncio.sleep(0.03)
        stable.death.set()
        await until(lambda: len(patient.made) == 4)


async def test_queue() -> None:
    """A request that would overfill the queue is refused; into an empty queue one of any size is let."""
    async with Patient(slow(), max_pending=2).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        check_room(supervisor, 3)
        supervisor.submit(JOB, collect([]))
        check_room(supervisor, 1)
        with pytest.raises(ServiceUnavailable) as caught:
            check_room(supervisor, 2)
        assert caught.value.retry_after_s == 1


@pytest.mark.parametrize(("limits", "name"), [((5.0, 0.0), "max_wait_s"), ((0.0, 4.0), "request_timeout_s")])
async def test_a_wait_that_is_too_long(limits: tuple[float, float], name: str) -> None:
    """It is refused at once, by the operator's limit and by the request's own deadline, and told when the
    wait will be short enough."""
    max_wait_s, timeout_s = limits
    async with Patient(slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.max_wait_s = max_wait_s
        supervisor.work.turns.wait_s = lambda requester: 11.5  # type: ignore[method-assign]
        with pytest.raises(ServiceUnavailable, match=f"wait for 12 s, but {name} is") as caught:
            check_room(supervisor, 1, NOBODY, timeout_s)
        assert caught.value.retry_after_s == {"max_wait_s": 7, "request_timeout_s": 8}[name]
        supervisor.max_wait_s = 0
        check_room(supervisor, 1, NOBODY, 0)


async def test_abort() -> None:
    """After abort nothing comes any more; an id that is not known does not matter."""
    got: list[EngineOutput | RequestFailure] = []
    async with Patient(engine := slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.submit(JOB, collect(got))
        await until(lambda: got)
        supervisor.abort("j")
        supervisor.abort("j")
        num, supervisor_pending = len(got), supervisor.pending
        await asyncio.sleep(0.01)
        assert (len(got), supervisor_pending, engine.running, engine.aborted) == (num, 0, set(), ["j"])


async def test_end_of_a_job() -> None:
    """A job that has ended is no longer pending."""
    got: list[EngineOutput | RequestFailure] = []
    async with Patient(slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.submit(Job("k", "r", [5], GenerationParams(), (1,), max_tokens=2), collect(got))
        await until(lambda: supervisor.pending == 0)
    assert [output.finish_reason for output in got if isinstance(output, EngineOutput)] == [None, "length"]


async def test_a_restart_is_told_from_a_start() -> None:
    """An engine is a restart where one that was ready was lost, and not where one has not started."""
    restarts: list[bool] = []

    class Asks(Patient):
        def make(self, number: int) -> Engine:
            restarts.append(self.supervisor.supervisors[0].is_restart)
            return super().make(number)

    async with Asks(Sick(EngineFailed("no")), engine := slow(), slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        engine.death.set()
        await until(lambda: len(restarts) == 3)
    assert restarts == [False, False, True]


async def handing_over(
    supervisor: Replicas, next_one: Engine, *, ready: bool
) -> tuple[list[EngineOutput | RequestFailure], asyncio.Task[None]]:
    """A job that has its first tokens, and the hand-over under way."""
    got: list[EngineOutput | RequestFailure] = []
    await until(lambda: supervisor.status.ready)
    supervisor.submit(JOB, collect(got))
    await until(lambda: len(got) > 2)
    if ready:
        await next_one.start(lambda status: None)
    handed = hand_over(supervisor, lambda number: next_one, next_one if ready else None)
    return got, asyncio.create_task(handed)


@pytest.mark.parametrize("ready", [True, False], ids=["both at once", "one after the other"])
async def test_another_engine_takes_over(ready: bool) -> None:
    """Its jobs go on there where they were, the old one has none any more, and nobody calls it a death."""
    old, new = slow(), slow()
    async with Patient(old).treated() as supervisor:
        got, handed = await handing_over(supervisor, new, ready=ready)
        await asyncio.wait_for(handed, 30)
        at_change = len(got)
        await until(lambda: len(got) > at_change + 2)
        assert not old.running
        assert len(new.running) == 1
        assert all(isinstance(output, EngineOutput) for output in got)
        assert supervisor.restarts == 0


async def test_the_model_is_ready_throughout() -> None:
    """Where the next engine has started, nobody waits."""
    phases: list[Phase] = []
    async with Patient(slow()).treated() as supervisor:
        await until(lambda: supervisor.status.ready)
        supervisor.on_status = lambda status: phases.append(status.phase)
        _, handed = await handing_over(supervisor, slow(), ready=True)
        await asyncio.wait_for(handed, 30)
    assert set(phases) <= {Phase.READY, Phase.STOPPED}


@pytest.mark.parametrize("error", [ConfigurationError("no"), EngineFailed("no")])
async def test_one_that_does_not_start_takes_nothing_over(error: Exception) -> None:
    """Its failure is raised, and the engine that was before goes on, with the jobs."""
    old = slow()
    async with Patient(old).treated() as supervisor:
        got, handed = await handing_over(supervisor, Sick(error), ready=False)
        with pytest.raises(type(error), match="no"):
            await asyncio.wait_for(handed, 30)
        at_change = len(got)
        await until(lambda: len(got) > at_change + 2)
        assert len(old.running) == 1
