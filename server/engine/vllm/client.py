"""One process's side of an engine: its jobs, and the sockets that they and what comes of them travel over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.engine.base import Job, Sink
from server.engine.vllm.exchange import Exchange
from server.engine.vllm.running import RunningJobs
from server.engine.vllm.stats import EngineStats
from server.engine.vllm.translate import core_request


class EngineClient:
    """number: which of the engine's clients this process is, in the order of the addresses it was given."""

    def __init__(self, link: Exchange, stats: EngineStats, number: int = 0) -> None:
        self.link = link
        self._number = number
        # A worker may have followed one that was killed, whose jobs the engine still works on.
        self._running = RunningJobs(stats, self.abort, link.abort if number else None)
        self._aborted: list[str] = []  # not yet told to the engine

    def listen(self, dead: Callable[[], None]) -> None:
        """Hand out what the engine's steps bring. dead: called when it says that it has failed."""
        self.link.listen(self._running.take, dead)

    def submit(self, job: Job, sink: Sink) -> None:
        self._running.add(job, sink)
        self.link.add(core_request(job, self._number))

    def abort(self, job_id: str) -> None:
        if not self._running.discard(job_id):
            return
        if not self._aborted:  # those of one pass, a request's candidates say, go together
            asyncio.get_running_loop().call_soon(self._tell_aborted)
        self._aborted.append(job_id)

    def stop(self) -> None:
        """The engine has stopped: nothing more is handed out."""
        self._running.clear()

    def close(self) -> None:
        """Safe to call twice."""
        self.stop()
        self.link.close()

    def _tell_aborted(self) -> None:
        aborted, self._aborted = self._aborted, []
        self.link.abort(aborted)
