"""One process's client of an engine: its jobs, and the sockets for requests and outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.engine.base import Job, Sink
from server.engine.vllm.exchange import Exchange
from server.engine.vllm.running import RunningJobs
from server.engine.vllm.stats import EngineStats
from server.engine.vllm.translate import core_request


class EngineClient:
    """number: of this client, in the order of the addresses that the engine was given."""

    def __init__(self, link: Exchange, stats: EngineStats, number: int = 0) -> None:
        self.link = link
        link.on_signs = stats.correct
        self._number = number
        # A worker may have replaced a killed one, whose jobs the engine still works on.
        self._running = RunningJobs(stats, self.abort, link.abort if number else None)
        self._aborted: list[str] = []  # aborted jobs that the engine does not know of yet

    def listen(self, dead: Callable[[], None]) -> None:
        """Pass on the outputs of the engine's steps. dead: called when the engine says that it has failed."""
        self.link.listen(self._running.take, dead)

    def submit(self, job: Job, sink: Sink) -> None:
        self._running.add(job, sink)
        self.link.add(core_request(job, self._number))

    def abort(self, job_id: str) -> None:
        if not self._running.discard(job_id):
            return
        if not self._aborted:  # abort jobs of one pass together, such as a request's candidates
            asyncio.get_running_loop().call_soon(self._tell_aborted)
        self._aborted.append(job_id)

    def stop(self) -> None:
        """The engine has stopped: nothing more is passed on."""
        self._running.clear()

    def close(self) -> None:
        """Safe to call twice."""
        self.stop()
        self.link.close()

    def _tell_aborted(self) -> None:
        aborted, self._aborted = self._aborted, []
        self.link.abort(aborted)
