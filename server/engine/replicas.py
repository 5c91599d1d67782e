"""The engines of one model: each is supervised alone, and all of them work on the same jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from server.engine.base import NOBODY, Engine, Job, Phase, Requester, Sink, Status, stopped
from server.engine.losses import Losses
from server.engine.supervisor import Patience, Supervisor
from server.engine.work import Work
from server.errors import ConfigurationError, EngineFailed, Failure, ServiceUnavailable

log = logging.getLogger(__name__)

AGAIN_S = 60.0  # until one that failed in the same way each time is tried again, while others are served
# From the furthest from being ready on.
PROGRESS = (
    *(Phase.FAILED, Phase.STOPPED, Phase.WAITING, Phase.RESTARTING),
    *(Phase.VERIFYING, Phase.IMPORTING, Phase.LOADING, Phase.WARMING, Phase.READY),
)


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
        self.changing = asyncio.Lock()
        self.on_status: Callable[[int, Status], None] = lambda number, status: None
        self.losses: Callable[[int], Losses] | None = None
        self.supervisors: dict[int, Supervisor] = {}
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
        """Now, or as soon as the next engine is ready."""
        return self.num_ready >= self._enough or (self.work.resume and self.is_resuming)

    async def run(self) -> None:
        """Keep them alive until cancelled. Raises ConfigurationError where no other try would help, and
        EngineFailed where none has helped, of the last of them that has failed."""
        self._over = asyncio.get_running_loop().create_future()
        try:
            for number in self.supervisors:
                self._begin(number)
            await self._over
        finally:
            tasks = [*self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running.clear()
            self.work.fail(stopped())

    def check_room(self, num_jobs: int, requester: Requester = NOBODY, timeout_s: float = 0.0) -> None:
        """Raise ServiceUnavailable unless that many more jobs can be taken now, and the first of them can be
        begun in time. timeout_s: the request's own; 0: it has none."""
        if not self.takes_jobs:
            status = self.status
            why = f" ({status.detail})" if status.detail else ""
            raise ServiceUnavailable(f"model {self.name} is not ready: {status.phase}{why}", retry_after_s=10)
        if self.pending and self.pending + num_jobs > self.max_pending:
            too_many = self.pending + num_jobs - self.max_pending
            raise ServiceUnavailable(
                f"model {self.name} has {self.pending} candidates to work on, of at most {self.max_pending}",
                retry_after_s=max(1, math.ceil(self.work.turns.clear_s(too_many))),
            )
        wait_s = self.work.turns.wait_s(requester)
        for limit_s, name in ((self.max_wait_s, "max_wait_s"), (timeout_s, "request_timeout_s")):
            if 0 < limit_s < wait_s:
                raise ServiceUnavailable(
                    f"model {self.name} has so much to do that this request would wait for {wait_s:.0f} s,"
                    f" and {name} is {limit_s:g}",
                    retry_after_s=math.ceil(wait_s - limit_s),
                )

    def submit(self, job: Job, sink: Sink) -> None:
        """As an engine's, whichever it will be. Where none is expected, the job fails at once."""
        if self.takes_jobs:
            self.work.submit(job, sink)
        else:
            sink(stopped())

    def abort(self, job_id: str) -> None:
        """As an engine's."""
        self.work.abort(job_id)

    def report(self, status: Status) -> None:
        """They are so far, all of them."""
        for one in self.supervisors.values():
            one.report(status)

    async def hand_over(
        self,
        make: Callable[[int], Engine],
        engine: Engine | None = None,
        numbers: Collection[int] | None = None,
    ) -> None:
        """Have other engines go on with the jobs, one replica after the other. Returns when the last does.

        make: as at the beginning. engine: one that has started, for the first; without, each is made when the
        one before it has ended. numbers: of the replicas; None is all of them. Those that have failed for
        good are tried again. Raises what one fails with: then all go on as before.
        """
        ended = [number for number, one in self.supervisors.items() if one.has_ended]
        if len(ended) == len(self.supervisors):
            ended = []  # there is nobody to go on with
        done: list[int] = []
        try:
            for number in sorted({*(self.supervisors if numbers is None else numbers)} - {*ended}):
                await self.supervisors[number].hand_over(partial(make, number), engine)
                engine = None
                done.append(number)
        except Failure:
            for number in done:
                with contextlib.suppress(Failure):  # it has said so, and goes on as it is
                    await self.supervisors[number].hand_over(partial(self.make, number))
            raise
        self.make = make
        for number in ended:
            await self.remove(number)
            self.add(number)

    def add(self, number: int) -> None:
        """One more, which starts at once if the others run."""
        self.supervisors[number] = self._supervisor(number)
        if self._over is not None:
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
        self._hopeless.discard(number)
        self.work.remove(number)

    def _supervisor(self, number: int, *, is_alone: bool = False) -> Supervisor:
        name = f"model {self.name}" if is_alone else f"model {self.name}, replica {number}"
        one = Supervisor(name, partial(self._make, number), self.work, number, self.patience)
        one.on_status = partial(self._tell, number)
        one.losses_of = partial(self._losses, number)
        return one

    def _make(self, number: int) -> Engine:
        return self.make(number)

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
                    if not self._over.done():
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
        return max(ones, key=lambda one: PROGRESS.index(one.status.phase))
