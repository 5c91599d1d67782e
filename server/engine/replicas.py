"""The engines of one model: each is supervised alone, and all of them work on the same jobs."""

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

AGAIN_S = 60.0  # until one that failed in the same way each time is tried again, while others are served
POLL_S = 0.02


class Replicas:
    """make: (number) -> an engine that has not started. count: how many, numbered from 0. min_ready: how many
    have to be, for the model to take requests.

    changing: to be held while others take their place, or there come to be more or fewer of them.
    max_pending: jobs running or waiting, above which a request is refused. max_wait_s: how long one may wait
    for its turn, as far as that can be told; 0: for ever. on_status: (number, status) told how far an engine
    is. losses: (number) -> the count of what was lost there, where it is this process that counts.
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
        """Of each replica."""
        return {number: one.status for number, one in self.supervisors.items()}

    @property
    def status(self) -> Status:
        """Of the model: ready, if enough replicas are; else that of the one that will be next."""
        status, num_ready = self._next().status, self.num_ready
        if len(self.supervisors) == 1 or num_ready >= self._enough or status.detail:
            return status
        return replace(status, detail=f"{num_ready} of {self._enough} replicas are ready")

    @property
    def num_ready(self) -> int:
        return sum(one.status.ready for one in self.supervisors.values())

    @property
    def _enough(self) -> int:
        """How many have to be ready: all of them, where a reload that was to bring more has failed."""
        return min(self.min_ready, len(self.supervisors))

    @property
    def is_available(self) -> bool:
        """Ready, or rightly not loaded."""
        return self.status.ready or self.residence.may_stay_out

    @property
    def can_answer(self) -> bool:
        """Now, or as soon as it is loaded."""
        return self.status.ready or (self.residence.on_demand and self.takes_jobs)

    @property
    def progress(self) -> str:
        """What its jobs wait for that are on no engine."""
        if not self.work.is_held:
            return "resuming"
        if (num_before := self.residence.num_before) is not None:
            return f"model {self.name}: waits for memory, {num_before} before it"
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
        """No engine of it starts, and none is tried any more until it is loaded again."""
        return self.residence.on_demand and self._hopeless >= set(self.supervisors)

    @property
    def memory(self) -> int:
        """Bytes that its engines hold; 0: that cannot be told."""
        return sum(one.memory for one in self.supervisors.values())

    @property
    def phase_since(self) -> float:
        """When the model came to its phase, of time.monotonic."""
        return self._next().phase_since

    @property
    def restarts(self) -> int:
        return sum(one.restarts for one in self.supervisors.values())

    @property
    def is_resuming(self) -> bool:
        """Whether an engine was lost a moment ago, and another one is expected."""
        return any(one.is_resuming for one in self.supervisors.values())

    @property
    def takes_jobs(self) -> bool:
        """Now, or as soon as the next engine is ready, or the model is loaded."""
        if self.residence.may_stay_out:
            return not self.residence.is_refused and self.status.phase is not Phase.FAILED
        return self.num_ready >= self._enough or (self.work.resume and self.is_resuming)

    async def run(self) -> None:
        """Keep them alive until cancelled. Raises ConfigurationError where no other try would help, and
        EngineFailed where none has helped, of the last of them that has failed."""
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
        """Start the engines of a model that has none."""
        self.residence.is_out = False
        self.report(Status(Phase.WAITING))
        for number in self.supervisors:
            self._begin(number)

    async def loaded(self) -> None:
        """Return when it is, or all of it that can be; of one that is loaded at the start, also when an
        engine has failed so often that others need not wait for it. Raises where it will not be, as run."""
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
        """It cannot be served, for a reason outside of its engines."""
        if self.is_running:
            assert self._over is not None, "runs"
            self._over.set_exception(error)

    async def unload(self, *, asleep: bool = False) -> bool:
        """End the engines, or have them sleep. What has come for them waits until the model is loaded again.
        Returns whether any of them sleeps."""
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
        """It may have left memory, or an engine that slept is gone."""
        if self.residence.is_out:
            phase = Phase.ASLEEP if self.sleepers else Phase.UNLOADED
            self.report(Status(phase, detail=self.residence.failure))
            self.residence.on_wanted()

    def submit(self, job: Job, sink: Sink) -> None:
        """As an engine's, whichever it will be. Where none is expected, the job fails at once."""
        if self.takes_jobs:
            self.work.submit(job, sink)
            if self.work.is_held:
                self.residence.on_wanted()
        else:
            sink(stopped())

    def abort(self, job_id: str) -> None:
        """As an engine's."""
        self.work.abort(job_id)

    def report(self, status: Status) -> None:
        """They are so far, all of them."""
        for one in self.supervisors.values():
            one.report(status)

    def add(self, number: int) -> None:
        """One more, which starts at once if the others run."""
        self.supervisors[number] = self._supervisor(number)
        if self.residence.is_out:
            self.supervisors[number].report(Status(Phase.UNLOADED))
        elif self._over is not None:
            self._begin(number)

    async def remove(self, number: int) -> None:
        """End one, if there is one of that number; what it works on goes on elsewhere."""
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
        """One replica, as long as the model is served."""
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
                log.error("%s; the other replicas are served", error.message)
                if isinstance(error, ConfigurationError):
                    return
                await asyncio.sleep(AGAIN_S)
            except Exception as error:  # noqa: BLE001  # a fault of ours, of which nobody else would hear
                if not self._over.done():
                    self._over.set_exception(error)
                return

    def _next(self) -> Supervisor:
        """The one that the model's being ready depends on, or has made it so."""
        is_ready = self.num_ready >= self._enough
        ones = [one for one in self.supervisors.values() if is_ready or not one.status.ready]
        return max(ones, key=lambda one: [*Phase].index(one.status.phase))
