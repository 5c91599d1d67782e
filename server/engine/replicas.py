"""The engines of one model: each has a supervisor, and all of them work on the same jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from server.engine.base import Engine, Job, Phase, Sink, Status, stopped
from server.engine.losses import Losses
from server.engine.residence import Residence
from server.engine.sleepers import Sleepers
from server.engine.supervisor import ALIKE, Patience, Supervisor
from server.engine.work import Work
from server.errors import ConfigurationError, EngineFailed, ServiceUnavailable

log = logging.getLogger(__name__)

AGAIN_S = 60.0  # seconds until one that kept failing in the same way is tried again, while others run
POLL_S = 0.02


class Replicas:
    """make: (number) -> an engine that has not started. count: how many, numbered from 0. min_ready: how many
    must be ready for the model to take requests.

    changing: a lock to hold while engines are replaced, or their number changes. max_pending: jobs running or
    waiting, above which a request is refused. max_wait_s: how long a job may wait for its turn, as far as
    that can be predicted; 0: for ever. on_status: (number, status), called when an engine's status changes.
    losses: (number) -> the counters of its losses, if this process counts them.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int], Engine],
        count: int = 1,
        *,
        min_ready: int = 1,
        max_pending: int = 4096,
        max_wait_s: float = 600.0,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self.make = make
        self.min_ready = min_ready
        self.max_pending = max_pending
        self.max_wait_s = max_wait_s
        self.patience = patience or Patience()
        self.work = Work()
        self.residence = Residence()
        self.changing = asyncio.Lock()
        self.on_status: Callable[[int, Status], None] = lambda number, status: None
        self.losses: Callable[[int], Losses] | None = None
        self.supervisors: dict[int, Supervisor] = {}
        self.sleepers = Sleepers(name, self.tell_out)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._hopeless: set[int] = set()
        self._over: asyncio.Future[None] | None = None
        for number in range(count):
            self.supervisors[number] = self._supervisor(number, is_alone=count == 1)

    @property
    def pending(self) -> int:
        """Jobs running or waiting."""
        return len(self.work)

    @property
    def statuses(self) -> dict[int, Status]:
        """The status of each replica, by number."""
        return {number: one.status for number, one in self.supervisors.items()}

    @property
    def status(self) -> Status:
        """The status of the model: ready if enough replicas are, else that of the next one to be ready."""
        status, num_ready = self._next().status, self.num_ready
        if len(self.supervisors) == 1 or num_ready >= self._enough or status.detail:
            return status
        return replace(status, detail=f"{num_ready} of {self._enough} replicas are ready")

    @property
    def num_ready(self) -> int:
        return sum(one.status.ready for one in self.supervisors.values())

    @property
    def _enough(self) -> int:
        """How many must be ready: all of them, if a reload that was to add some has failed."""
        return min(self.min_ready, len(self.supervisors))

    @property
    def is_available(self) -> bool:
        """Ready, or unloaded on purpose."""
        return self.status.ready or self.residence.may_stay_out

    @property
    def can_answer(self) -> bool:
        """It can answer now, or as soon as it is loaded."""
        return self.status.ready or (self.residence.on_demand and self.takes_jobs)

    @property
    def progress(self) -> str:
        """What jobs without an engine wait for."""
        if not self.work.is_held:
            return "resuming"
        if (num_before := self.residence.num_before) is not None:
            return f"model {self.name} waits for memory; models before it: {num_before}"
        return f"model {self.name}: {self.status.words}"

    @property
    def state(self) -> str:
        """In one word: loaded, loading, asleep, unloaded, failed."""
        phase = self.status.phase
        if phase in (Phase.UNLOADED, Phase.ASLEEP, Phase.FAILED):
            return str(phase)
        return "loaded" if phase is Phase.READY else "loading"

    @property
    def is_running(self) -> bool:
        """It can be loaded."""
        return self._over is not None and not self._over.done()

    @property
    def is_given_up(self) -> bool:
        """None of its engines starts, and none is tried until the model is loaded again."""
        return self.residence.on_demand and self._hopeless >= set(self.supervisors)

    @property
    def memory(self) -> int:
        """Bytes that its engines hold; 0: unknown."""
        return sum(one.memory for one in self.supervisors.values())

    @property
    def phase_since(self) -> float:
        """When the model entered its phase (time.monotonic)."""
        return self._next().phase_since

    @property
    def restarts(self) -> int:
        return sum(one.restarts for one in self.supervisors.values())

    @property
    def is_resuming(self) -> bool:
        """Whether an engine was lost a moment ago, and the next one is expected."""
        return any(one.is_resuming for one in self.supervisors.values())

    @property
    def takes_jobs(self) -> bool:
        """It takes jobs now, or when the next engine is ready or the model is loaded."""
        if self.residence.may_stay_out:
            return not self.residence.is_refused and self.status.phase is not Phase.FAILED
        return self.num_ready >= self._enough or (self.work.resume and self.is_resuming)

    async def run(self) -> None:
        """Keep the engines running until cancelled. When the last one has failed, raises its failure:
        ConfigurationError if another try would not help, EngineFailed if none has helped."""
        self._over = asyncio.get_running_loop().create_future()
        try:
            if self.residence.is_out:
                self.report(Status(Phase.UNLOADED))
            else:
                self.load()
            await self._over
        except (ConfigurationError, EngineFailed) as error:
            self.work.fail(
                ServiceUnavailable(f"model {self.name} cannot be served: {error.message}", retry_after_s=60)
            )
            raise
        finally:
            tasks = [*self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running.clear()
            await self.sleepers.end()
            self.work.fail(stopped())

    def load(self) -> None:
        """Start the engines of an unloaded model."""
        self.residence.is_out = False
        self.report(Status(Phase.WAITING))
        for number in self.supervisors:
            self._begin(number)

    async def loaded(self) -> None:
        """Return when the model is loaded, or as much of it as can be; for one that is loaded at the start,
        also when an engine has failed so often that others need not wait for it. Raises as run."""
        assert self._over is not None, "runs"
        before = self.restarts
        while self.num_ready < self._enough:
            is_tried = self.restarts - before >= ALIKE and not self.residence.on_demand
            if is_tried or 0 < self.num_ready >= len(self.supervisors) - len(self._hopeless):
                return
            if self._over.done():
                self._over.result()
            if self.is_given_up:
                raise EngineFailed(self.residence.failure)
            await asyncio.sleep(POLL_S)

    def fail(self, error: ConfigurationError) -> None:
        """The model cannot be served, for a reason outside of its engines."""
        if self.is_running:
            assert self._over is not None, "runs"
            self._over.set_exception(error)

    async def unload(self, *, asleep: bool = False) -> bool:
        """End the engines, or put them to sleep. Waiting jobs wait until the model is loaded again. Returns
        whether any engine sleeps."""
        self.work.hold()
        self.residence.is_out = True
        if asleep:
            self.sleepers.keep({number: one.let_go() for number, one in self.supervisors.items()})
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        self._hopeless.clear()
        for number in self.supervisors:
            self.work.unload(number)
        await (self.sleepers.sleep() if asleep else self.sleepers.end())
        self.tell_out()
        return bool(self.sleepers)

    def tell_out(self) -> None:
        """Report that the model may be unloaded, or that an engine that slept is gone."""
        if self.residence.is_out:
            phase = Phase.ASLEEP if self.sleepers else Phase.UNLOADED
            self.report(Status(phase, detail=self.residence.failure))
            self.residence.on_wanted()

    def submit(self, job: Job, sink: Sink) -> None:
        """Submit a job to any of the engines. If none is expected, the job fails at once."""
        if self.takes_jobs:
            self.work.submit(job, sink)
            if self.work.is_held:
                self.residence.on_wanted()
        else:
            sink(stopped())

    def abort(self, job_id: str) -> None:
        """Abort a job."""
        self.work.abort(job_id)

    def report(self, status: Status) -> None:
        """All engines have this status."""
        for one in self.supervisors.values():
            one.report(status)

    def add(self, number: int) -> None:
        """Add a replica, which starts at once if the others run."""
        self.supervisors[number] = self._supervisor(number)
        if self.residence.is_out:
            self.supervisors[number].report(Status(Phase.UNLOADED))
        elif self._over is not None:
            self._begin(number)

    async def remove(self, number: int) -> None:
        """End the replica of that number, if any; its jobs continue elsewhere."""
        if number not in self.supervisors:
            return
        task = self._running.pop(number, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        del self.supervisors[number]
        await self.sleepers.end((number,))
        self._hopeless.discard(number)
        self.work.remove(number)

    def _supervisor(self, number: int, *, is_alone: bool = False) -> Supervisor:
        name = f"model {self.name}" if is_alone else f"model {self.name}, replica {number}"
        one = Supervisor(name, lambda: self.make(number), self.work, number, self.patience)
        one.on_status = partial(self._tell, number)
        one.losses_of = partial(self._losses, number)
        one.sleeper = partial(self.sleepers.take, number)
        return one

    def _tell(self, number: int, status: Status) -> None:
        if status.ready:
            self._hopeless.discard(number)
        self.on_status(number, status)

    def _losses(self, number: int) -> Losses | None:
        return self.losses(number) if self.losses is not None else None

    def _begin(self, number: int) -> None:
        self._running[number] = asyncio.get_running_loop().create_task(self._live(number))

    async def _live(self, number: int) -> None:
        """Run one replica, as long as the model is served."""
        assert self._over is not None, "runs"
        one = self.supervisors[number]
        while True:
            try:
                await one.run()
            except (ConfigurationError, EngineFailed) as error:
                self._hopeless.add(number)
                if self._hopeless >= set(self.supervisors):
                    if self.residence.on_demand and isinstance(error, EngineFailed):
                        self.residence.fail(error.message)
                    elif not self._over.done():
                        self._over.set_exception(error)
                    return
                one.report(Status(Phase.FAILED, detail=error.message))
                log.error("%s; the other replicas keep running", error.message)
                if isinstance(error, ConfigurationError):
                    return
                await asyncio.sleep(AGAIN_S)
            except Exception as error:  # noqa: BLE001  # a bug of ours, which nobody else would report
                if not self._over.done():
                    self._over.set_exception(error)
                return

    def _next(self) -> Supervisor:
        """The replica on which the readiness of the model depends, or that has made it ready."""
        is_ready = self.num_ready >= self._enough
        ones = [one for one in self.supervisors.values() if is_ready or not one.status.ready]
        return max(ones, key=lambda one: [*Phase].index(one.status.phase))
