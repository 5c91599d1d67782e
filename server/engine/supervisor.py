"""Starts an engine, watches it, and restarts it when it has died. Its jobs continue on the
next one (work.py)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.engine.base import Death, Engine, Phase, Sleeper, Status
from server.engine.losses import Losses
from server.engine.work import Work
from server.errors import EngineFailed, Failure

log = logging.getLogger(__name__)

# Seconds before each start, by the number of failures in a row: failed starts, and engines that soon ended.
BACKOFF_S = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)
WANTED_S = 5.0  # the longest wait while jobs wait for the engine
# Seconds of being ready after which the end of an engine is not an early one.
STABLE_S = 30.0
# How long after the loss of an engine new requests are accepted, to wait with the others for the next one.
# After that, as when a start fails, clients should go elsewhere.
PATIENCE_S = 30.0
# After this many starts that fail in the same way, another one is not expected to help.
ALIKE = 3
NUMBERS = re.compile(r"\d+")


@dataclass(slots=True)
class Patience:
    """Patience with engines that do not start. backoff_s: waits before each start, by the failures before it.
    keep_trying: also with an engine that keeps failing in the same way."""

    backoff_s: Sequence[float] = BACKOFF_S
    keep_trying: bool = True


class Supervisor:
    """Supervises one replica's engine, whichever process it is at the moment.

    name: of the model, and of the replica if there are several. make: builds an engine that has not started.
    work: the model's jobs. number: of the replica. on_status: called when the engine's status changes.
    losses: the counters of losses. sleeper: returns an engine to wake instead of making one.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Engine],
        work: Work,
        number: int = 0,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self.status = Status(Phase.WAITING)
        self.phase_since = time.monotonic()
        self.restarts = 0
        self.work = work
        self.number = number
        self.losses_of: Callable[[], Losses | None] = lambda: None
        self.sleeper: Callable[[], Sleeper | None] = lambda: None
        self.patience = patience or Patience()
        self.on_status: Callable[[Status], None] = lambda status: None
        self.make = make
        self._next: Engine | None = None  # an engine that has started, to take this one's place
        # Makes engines of the former kind, until the next one is ready
        self._former: Callable[[], Engine] | None = None
        self._relieved = asyncio.Event()  # set: the current engine is to give way to the next
        self._handed_over: asyncio.Future[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._last = ""  # how the last engine ended
        self._lost_at: float | None = None  # when the last ready engine ended; None: another one is ready
        self._engine: Engine | None = None

    @property
    def is_resuming(self) -> bool:
        """Whether an engine was lost a moment ago, and the next one is expected."""
        return self._lost_at is not None and time.monotonic() - self._lost_at < PATIENCE_S

    @property
    def is_restart(self) -> bool:
        """Whether the next engine to be ready follows one that was ready."""
        return self._lost_at is not None

    @property
    def memory(self) -> int:
        """Bytes that its engine holds; 0: unknown."""
        return self._engine.memory() if self._engine is not None else 0

    @property
    def has_ended(self) -> bool:
        """Whether run has ended."""
        return self.status.phase in (Phase.STOPPED, Phase.FAILED)

    async def run(self) -> None:
        """Keep the engine running until cancelled. Raises ConfigurationError if another try would not help,
        and EngineFailed if none has helped."""
        failures = alike = 0
        try:
            while True:
                backoff_s = self.patience.backoff_s
                await self._back_off(backoff_s[min(failures, len(backoff_s) - 1)])
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
                failures = 0 if stable else failures + 1 if alike < ALIKE else len(backoff_s)
                if alike >= ALIKE and not self.patience.keep_trying:
                    raise EngineFailed(f"{self.name}: {how} ({alike} times with the same error)")
                self.restarts += 1
                self._last = how
                log.error("%s: %s; restarting it (%d)", self.name, how, self.restarts)
                self.report(Status(Phase.RESTARTING))
                await self._end()
        finally:
            self.report(Status(Phase.STOPPED))
            self.work.recall(self.number)
            await self._end()
            if self._next is not None:
                await self._next.close()
            if self._handed_over is not None and not self._handed_over.done():
                self._handed_over.set_exception(EngineFailed(f"{self.name} has ended"))
            await asyncio.gather(*self._closing)

    async def hand_over(self, make: Callable[[], Engine], engine: Engine | None = None) -> None:
        """Let other engines continue the jobs. Returns when the first of them does.

        make: as at the beginning. engine: one that has started; without it, one is made when the current one
        has ended, and the jobs wait. Raises the failure of the next engine; then the former kind continues.
        """
        if self.has_ended:
            raise EngineFailed(f"{self.name} has ended: {self.status.detail}")
        self._former, self.make, self._next = self.make, make, engine
        self._handed_over = asyncio.get_running_loop().create_future()
        self._relieved.set()
        await self._handed_over

    async def _live(self) -> Death | None:
        """The life of one engine. Returns its death, or None if it gave way to the next one. Raises
        EngineFailed if it did not start."""
        self._relieved.clear()
        self._engine, self._next = self._next, None
        if self._engine is None and not await self._wake():
            self._engine = self.make()
            await self._started(self._engine)
        assert self._engine is not None
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
            log.exception("%s: the server's watch over the engine failed", self.name)
            death = Death(f"{type(error).__name__}: {error}")
        finally:
            relieved.cancel()
            dying.cancel()
        self._lose(death)
        return death

    def let_go(self) -> Engine | None:
        """The engine, if it is ready; from then on, the supervisor does not end it. Call this before
        cancelling run."""
        engine = self._engine if self.status.ready else None
        if engine is not None:
            self._engine = None
        return engine

    async def _wake(self) -> bool:
        """Wake a sleeping engine, if there is one. Returns whether it runs."""
        if (engine := self.sleeper()) is None:
            return False
        self._engine = engine
        self.report(Status(Phase.WAKING))
        try:
            await engine.wake()
        except Failure as error:
            log.warning(
                "%s: the engine could not be woken, so a new one is started: %s", self.name, error.message
            )
            await self._end()
            return False
        self.report(Status(Phase.READY))
        return True

    async def _back_off(self, wait_s: float) -> None:
        """Wait for wait_s, or until jobs wait."""
        end = time.monotonic() + wait_s
        await asyncio.sleep(min(wait_s, WANTED_S))
        # New jobs raise no event
        while not len(self.work) and (left_s := end - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_s, WANTED_S))

    async def _started(self, engine: Engine) -> None:
        try:
            await engine.start(self.report)
        except Failure:
            raise
        except Exception as error:
            log.exception("%s: the engine did not start", self.name)
            raise EngineFailed(f"{type(error).__name__}: {error}") from error

    async def _give_way(self) -> None:
        """Give way to the next engine: at once if it is ready, else when the current one has
        freed its memory."""
        self.work.recall(self.number)
        if self._next is None:
            self._lost_at = time.monotonic()
            self.report(Status(Phase.RESTARTING))
            await self._end()
        elif self._engine is not None:
            closing = asyncio.create_task(self._engine.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _goes_back(self, error: Failure) -> bool:
        """Whether the failed engine was to replace a former kind, which then continues."""
        if self._former is None or self._handed_over is None or self._relieved.is_set():
            return False
        log.error("%s: %s; the former engine keeps running", self.name, error.message)
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
        num_resumed = self.work.begin(engine, self.number)
        if num_resumed:
            log.info("%s: %d candidates continue after %.1f s", self.name, num_resumed, lost_s)
        if (losses := self.losses_of()) is not None:
            losses.recovered(lost_s)
            losses.resumed(num_resumed)

    def _lose(self, death: Death) -> None:
        self._lost_at = time.monotonic()
        losses = self.losses_of()
        if losses is not None:
            losses.died(death.how, is_hang=death.is_hang)
        num_resumed = self.work.lose(self.number, death.how)
        if num_resumed:
            log.info("%s: %d candidates continue on other replicas", self.name, num_resumed)
            if losses is not None:
                losses.resumed(num_resumed)

    async def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    def report(self, status: Status) -> None:
        """Take note of an engine's status. Until it is ready, the status also says how the
        last engine ended."""
        if status.ready:
            self._last = ""
        elif self._last and not status.detail:
            status = replace(status, detail=self._last)
        if status.phase is not self.status.phase:
            now = time.monotonic()
            log.info(
                "%s: %s (%s took %.1f s)",
                self.name,
                status.phase,
                self.status.phase,
                now - self.phase_since,
            )
            self.phase_since = now
        self.status = status
        self.on_status(status)


def _alike(reason: str, other: str) -> bool:
    """Whether the reasons are the same apart from numbers, such as addresses, process ids or free bytes."""
    return NUMBERS.sub("", reason) == NUMBERS.sub("", other)
