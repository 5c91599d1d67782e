"""Starts an engine, watches it, and starts it again when it has died; its jobs go on there (work.py)."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.engine.base import NOBODY, Death, Engine, Job, Phase, Requester, Sink, Status, stopped
from server.engine.losses import Losses
from server.engine.work import Work
from server.errors import EngineFailed, Failure, ServiceUnavailable

log = logging.getLogger(__name__)

# Before each start, by the failures in a row before it: starts that failed, and lives that ended early.
BACKOFF_S = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)
WANTED_S = 5.0  # the longest of them while jobs wait for the engine
# Seconds of being ready after which a life has not ended early.
STABLE_S = 30.0
# How long after an engine was lost new requests are taken, to wait for the next one with those that have lost
# it. After that, a start that fails say, they are better told to go elsewhere.
PATIENCE_S = 30.0
# Starts that fail alike, one after another, after which another one is not expected to help.
ALIKE = 3
NUMBERS = re.compile(r"\d+")


class Supervisor:
    """The engine of one model, whichever process it is at the moment.

    make: builds an engine that has not started. max_pending: jobs running or waiting, above which a request
    is refused. max_wait_s: how long one may wait for its turn, as far as that can be told; 0: for ever.
    work: those jobs. backoff_s: waits before each start, by the failures before it. keep_trying:
    also an engine that fails in the same way each time. on_status: told how far the engine is. losses: the
    count of what was lost, where it is this process that counts.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Engine],
        *,
        max_pending: int = 4096,
        max_wait_s: float = 600.0,
        work: Work | None = None,
        backoff_s: Sequence[float] = BACKOFF_S,
        keep_trying: bool = True,
    ) -> None:
        self.name = name
        self.status = Status(Phase.WAITING)
        self.phase_since = time.monotonic()
        self.restarts = 0
        self.max_pending = max_pending
        self.max_wait_s = max_wait_s
        self.work = Work() if work is None else work
        self.losses: Losses | None = None
        self.backoff_s = backoff_s
        self.keep_trying = keep_trying
        self.on_status: Callable[[Status], None] = lambda status: None
        self.make = make
        self._next: Engine | None = None  # one that has started, to take this one's place
        self._former: Callable[[], Engine] | None = None  # makes those of before, until the next one is ready
        self._relieved = asyncio.Event()  # this one is to give way to the next
        self._handed_over: asyncio.Future[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._last = ""  # how the last engine has ended
        self._lost_at: float | None = None  # when the last engine that was ready has, until another one is
        self._engine: Engine | None = None

    @property
    def pending(self) -> int:
        """Jobs running or waiting."""
        return len(self.work)

    @property
    def is_resuming(self) -> bool:
        """Whether an engine was lost a moment ago, and another one is expected."""
        return self._lost_at is not None and time.monotonic() - self._lost_at < PATIENCE_S

    @property
    def is_restart(self) -> bool:
        """Whether the next engine to be ready follows one that was."""
        return self._lost_at is not None

    async def run(self) -> None:
        """Keep the engine alive until cancelled. Raises ConfigurationError where no other try would help, and
        EngineFailed where none has helped."""
        failures = alike = 0
        try:
            while True:
                await self._back_off(self.backoff_s[min(failures, len(self.backoff_s) - 1)])
                try:
                    death, alike = await self._live(), 0
                    if death is None:
                        failures = 0
                        continue
                    how = death.how
                except Failure as error:
                    if self._goes_back(error):
                        await self._end()
                        continue
                    if not isinstance(error, EngineFailed):
                        raise
                    how = f"the engine did not start: {error.message}"
                    alike = alike + 1 if _alike(how, self._last) else 1
                stable = self.status.ready and time.monotonic() - self.phase_since > STABLE_S
                failures = 0 if stable else failures + 1 if alike < ALIKE else len(self.backoff_s)
                if alike >= ALIKE and not self.keep_trying:
                    raise EngineFailed(f"model {self.name}: {how} (the same {alike} times)")
                self.restarts += 1
                self._last = how
                log.error("model %s: %s; starting it again (%d)", self.name, how, self.restarts)
                self.report(Status(Phase.RESTARTING))
                await self._end()
        finally:
            self.report(Status(Phase.STOPPED))
            self.work.fail(stopped())
            await self._end()
            if self._next is not None:
                await self._next.close()
            if self._handed_over is not None and not self._handed_over.done():
                self._handed_over.set_exception(EngineFailed(f"model {self.name} has ended"))
            await asyncio.gather(*self._closing)

    def check_room(self, num_jobs: int, requester: Requester = NOBODY, timeout_s: float = 0.0) -> None:
        """Raise ServiceUnavailable unless that many more jobs can be taken now, and the first of them can be
        begun in time. timeout_s: the request's own; 0: it has none."""
        if not (self.status.ready or (self.work.resume and self.is_resuming)):
            why = f" ({self.status.detail})" if self.status.detail else ""
            raise ServiceUnavailable(
                f"model {self.name} is not ready: {self.status.phase}{why}", retry_after_s=10
            )
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
        if self.status.ready or (self.work.resume and self.is_resuming):
            self.work.submit(job, sink)
        else:
            sink(stopped())

    def abort(self, job_id: str) -> None:
        """As an engine's."""
        self.work.abort(job_id)

    async def hand_over(self, make: Callable[[], Engine], engine: Engine | None = None) -> None:
        """Have other engines go on with the jobs. Returns when the first of them does.

        make: as at the beginning. engine: one that has started; without, one is made when this one has ended,
        and the jobs wait. Raises what that one fails with; those of before go on then.
        """
        if self.status.phase in (Phase.STOPPED, Phase.FAILED):
            raise EngineFailed(f"model {self.name} has ended: {self.status.detail}")
        self._former, self.make, self._next = self.make, make, engine
        self._handed_over = asyncio.get_running_loop().create_future()
        self._relieved.set()
        await self._handed_over

    async def _live(self) -> Death | None:
        """One life of an engine. Returns its death, or None where it has given way to the next. Raises
        EngineFailed where it did not start."""
        self._relieved.clear()
        self._engine, self._next = self._next, None
        if self._engine is None:
            self._engine = self.make()
            await self._started(self._engine)
        self._begin(self._engine)
        relieved = asyncio.create_task(self._relieved.wait())
        dying = asyncio.create_task(self._engine.died())
        try:
            await asyncio.wait((relieved, dying), return_when=asyncio.FIRST_COMPLETED)
            if relieved.done():
                await self._give_way()
                return None
            death = dying.result()
        except Exception as error:
            log.exception("model %s: the engine is not watched any more", self.name)
            death = Death(f"{type(error).__name__}: {error}")
        finally:
            relieved.cancel()
            dying.cancel()
        self._lose(death)
        return death

    async def _back_off(self, wait_s: float) -> None:
        """wait_s: as long as that, where no jobs wait."""
        end = time.monotonic() + wait_s
        await asyncio.sleep(min(wait_s, WANTED_S))
        while not self.pending and (left_s := end - time.monotonic()) > 0:  # noqa: ASYNC110  # jobs come unannounced
            await asyncio.sleep(min(left_s, WANTED_S))

    async def _started(self, engine: Engine) -> None:
        try:
            await engine.start(self.report)
        except Failure:
            raise
        except Exception as error:
            log.exception("model %s: the engine did not start", self.name)
            raise EngineFailed(f"{type(error).__name__}: {error}") from error

    async def _give_way(self) -> None:
        """To the next engine: at once where that is ready, else when this one has left its memory."""
        self.work.recall()
        if self._next is None:
            self._lost_at = time.monotonic()
            self.report(Status(Phase.RESTARTING))
            await self._end()
        elif self._engine is not None:
            closing = asyncio.create_task(self._engine.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _goes_back(self, error: Failure) -> bool:
        """Whether an engine that does not start was to take the place of others, which then go on."""
        if self._former is None or self._handed_over is None or self._relieved.is_set():
            return False
        log.error("model %s: %s; it goes on as before", self.name, error.message)
        self.make, self._former = self._former, None
        if not self._handed_over.done():
            self._handed_over.set_exception(error)
        return True

    def _begin(self, engine: Engine) -> None:
        lost_s = 0.0 if self._lost_at is None else time.monotonic() - self._lost_at
        self._lost_at = None
        if self._handed_over is not None and not self._relieved.is_set():
            self._former = None
            if not self._handed_over.done():
                self._handed_over.set_result(None)
        num_resumed = self.work.begin(engine)
        if num_resumed:
            log.info("model %s: %d candidates go on after %.1f s", self.name, num_resumed, lost_s)
        if self.losses is not None:
            self.losses.recovered(lost_s, num_resumed)

    def _lose(self, death: Death) -> None:
        self._lost_at = time.monotonic()
        if self.losses is not None:
            self.losses.died(is_hang=death.is_hang)
        self.work.lose()

    async def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    def report(self, status: Status) -> None:
        """An engine is so far. Until it is ready, how the last one has ended is said as well."""
        if status.ready:
            self._last = ""
        elif self._last and not status.detail:
            status = replace(status, detail=self._last)
        if status.phase is not self.status.phase:
            now = time.monotonic()
            log.info(
                "model %s: %s (%s took %.1f s)",
                self.name,
                status.phase,
                self.status.phase,
                now - self.phase_since,
            )
            self.phase_since = now
        self.status = status
        self.on_status(status)


def _alike(reason: str, other: str) -> bool:
    """Whether they say the same, numbers aside: addresses, process ids, bytes that are free."""
    return NUMBERS.sub("", reason) == NUMBERS.sub("", other)
