"""An engine that another process of this server runs, as a worker uses it (server/process/worker.py)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from server.engine.base import Death, Job, Phase, Report, Sink, Status
from server.engine.vllm.client import EngineClient
from server.engine.vllm.link import Link
from server.engine.vllm.stats import EngineStats

# Seconds after a lost link for the other process to report the end of the engine, if that is the reason.
UNSURE_S = 1.5


class Feed:
    """What a worker hears about an engine: its status, and its end."""

    def __init__(self) -> None:
        self.status = Status(Phase.WAITING)
        self.life = 0  # how often it has stopped, or was lost
        self._is_unsure = False  # the link was lost, and the engine's status is unknown since
        self._changed = asyncio.Event()

    def tell(self, status: Status) -> None:
        if self.status.ready and not status.ready:
            self.life += 1
        self._is_unsure = False
        self.status = status
        self._changed.set()

    def lose(self) -> None:
        """The link is lost, perhaps with the engine; the process that runs the engine will report it."""
        self.life += 1
        self._is_unsure = True
        self._changed.set()

    async def sure(self) -> None:
        """Return when the status is known, or no end has been reported in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNSURE_S):
                while self._is_unsure:
                    await self.change()
        self._is_unsure = False

    async def change(self) -> None:
        """Return when something new has been reported."""
        await self._changed.wait()
        self._changed.clear()


class AttachedEngine:
    """folder: of this worker's sockets, which the engine knows. number: as EngineClient's."""

    cache_tokens = 0

    def __init__(self, feed: Feed, folder: Path, number: int, stats: EngineStats) -> None:
        self._feed = feed
        self._client = EngineClient(Link(folder), stats, number)
        self._life = -1  # the life of the feed that this engine belongs to

    async def start(self, report: Report) -> None:
        await self._feed.sure()  # otherwise a dying engine might be reached, and its death would count twice
        # Otherwise an engine that has stopped meanwhile might be reached
        while self._life != self._feed.life:
            while not self._feed.status.ready:
                report(self._feed.status)
                await self._feed.change()
            self._life = self._feed.life
            await self._client.link.reached()
        self._client.listen(self._feed.lose)
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        self._client.submit(job, sink)

    def abort(self, job_id: str) -> None:
        self._client.abort(job_id)

    def memory(self) -> int:
        return 0  # another process holds it

    async def died(self) -> Death:
        while self._feed.life == self._life:
            await self._feed.change()
        self._client.stop()
        return Death("the engine has stopped")

    async def close(self) -> None:
        self._client.close()
