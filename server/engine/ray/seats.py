"""A front end's place at each replica: the status that it hears, and the engine for its jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from server.engine.base import Death, Job, Phase, Report, Sink, Status
from server.engine.ray.messages import UNKNOWN, Told
from server.engine.vllm.attached import Feed
from server.engine.vllm.channel import Channel
from server.engine.vllm.client import EngineClient
from server.engine.vllm.hub import Admission
from server.engine.vllm.stats import EngineStats
from server.errors import EngineFailed

AGAIN_S = 2.0  # seconds between two tries of an admission that does not work


class Seat(Feed):
    """A feed whose engine may move to another node. admission: how to reach it; None: unknown. is_reached: an
    engine of it is in use. on_lost: called when it can no longer be reached."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self.status = Status(Phase.WAITING, detail="for the cluster")
        self.admission: Admission | None = None
        self.is_reached = False
        self._on_lost = on_lost
        self._its_life = 0  # the life that its actor reported last

    @property
    def node(self) -> str:
        """The address of the node that its engine is on, or is being started on; empty: none is known."""
        if self.admission is None or (self.status.phase is Phase.WAITING and not self.is_reached):
            return ""
        return self.admission.address.removeprefix("tcp://").rpartition(":")[0].strip("[]")

    def admit(self, admission: dict[str, Any]) -> None:
        """The admission to the replica: unchanged, or to another actor."""
        known, self.admission = self.admission, Admission(**admission)
        if known is not None and known != self.admission:
            self.tell(Status(Phase.RESTARTING))
            self._its_life = 0

    def hear(self, told: Told) -> None:
        """The status of its engine. An engine that Ray does not reach may still be reached from here."""
        if told.version == UNKNOWN and self.is_reached:
            return
        if told.life != self._its_life and told.status.ready:
            self.tell(Status(Phase.RESTARTING))  # it was restarted meanwhile
        self._its_life = told.life
        self.tell(told.status)

    def lose(self) -> None:
        self.is_reached = False
        super().lose()
        self.ask()

    def ask(self) -> None:
        """Ask for a new admission: this one does not work."""
        self._on_lost()


class ClusterEngine:
    """An engine on some node, similar to AttachedEngine for an engine of another process. It is reached
    through the seat's current admission."""

    cache_tokens = 0

    def __init__(self, seat: Seat, stats: EngineStats) -> None:
        self._seat = seat
        self._stats = stats
        self._client: EngineClient | None = None
        self._life = -1  # the life of the seat that this engine belongs to

    async def start(self, report: Report) -> None:
        seat = self._seat
        await seat.sure()
        while self._client is None:
            while not seat.status.ready or seat.admission is None:
                report(seat.status)
                await seat.change()
            try:
                await self._reach(seat.admission)
            except EngineFailed as error:
                report(Status(Phase.RESTARTING, detail=error.message))
                seat.ask()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(seat.change(), AGAIN_S)
        seat.is_reached = True
        self._client.listen(seat.lose)
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._client is not None, "started"
        self._client.submit(job, sink)

    def abort(self, job_id: str) -> None:
        if self._client is not None:
            self._client.abort(job_id)

    def memory(self) -> int:
        return 0  # another process holds it

    async def died(self) -> Death:
        assert self._client is not None, "started"
        while self._seat.life == self._life:
            await self._seat.change()
        self._seat.is_reached = False
        self._client.stop()
        return Death("the engine has stopped or cannot be reached")

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _reach(self, admission: Admission) -> None:
        """Return when the engine is reached, or must be reached another way."""
        seat, life = self._seat, self._seat.life
        client = EngineClient(Channel(admission), self._stats, admission.slot + 1)
        reached = asyncio.create_task(client.link.reached())
        try:
            while not reached.done() and seat.life == life and seat.admission == admission:
                changed = asyncio.create_task(seat.change())
                await asyncio.wait((reached, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if seat.life == life and seat.admission == admission:
                reached.result()
                self._client, self._life = client, life
        finally:
            reached.cancel()
            await asyncio.gather(reached, return_exceptions=True)
            if self._client is None:
                client.close()
