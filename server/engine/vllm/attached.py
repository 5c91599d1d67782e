"""An engine that another process of this server runs, as a worker has it (server/process/worker.py)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from server.engine.base import Death, Job, Phase, Report, Sink, Status
from server.engine.vllm.client import EngineClient
from server.engine.vllm.link import Link
from server.engine.vllm.stats import EngineStats

# From a lost link until the other process has told of the engine's end, if that is why.
UNSURE_S = 1.5


class Feed:
    """What a worker is told of an engine: how far it is, and that it has stopped."""

    def __init__(self) -> None:
        self.status = Status(Phase.WAITING)
        self.life = 0  # how often it has stopped, or was lost
        self._is_unsure = False  # whether it still runs: the link was lost, and nothing has been told since
        self._changed = asyncio.Event()

    def tell(self, status: Status) -> None:
        if self.status.ready and not status.ready:
            self.life += 1
        self._is_unsure = False
        self.status = status
        self._changed.set()

    def lose(self) -> None:
        """The link to it is lost, perhaps with the engine, of which the process that runs it will tell."""
        self.life += 1
        self._is_unsure = True
        self._changed.set()

    async def sure(self) -> None:
        """Return when it is known whether it runs, or nothing is told of its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNSURE_S):
                while self._is_unsure:
                    await self.change()
        self._is_unsure = False

    async def change(self) -> None:
        """Return when something has been told since the last time."""
        await self._changed.wait()
        self._changed.clear()


class AttachedEngine:
    """folder: of this worker's sockets, which the engine has been told. number: as EngineClient's."""

    cache_tokens = 0

    def __init__(self, feed: Feed, folder: Path, number: int, stats: EngineStats) -> None:
        self._feed = feed
        self._client = EngineClient(Link(folder), stats, number)
        self._life = -1  # which of the feed's this is

    async def start(self, report: Report) -> None:
        await self._feed.sure()  # else one that dies is reached, and its death counts twice
        while self._life != self._feed.life:  # else one that has stopped meanwhile is reached
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
        return 0  # it is another process's

    async def died(self) -> Death:
        while self._feed.life == self._life:
            await self._feed.change()
        self._client.stop()
        return Death("the engine has stopped")

    async def close(self) -> None:
        self._client.close()
