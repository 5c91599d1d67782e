"""The real engine: vLLM, in a process of its own (host.py), which alone imports it.

Tokens in, tokens out: vLLM's tokenizer is not even loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from server.engine.base import EngineOutput, Job, Phase, Report, Sink, Status
from server.engine.link import Link
from server.engine.processes import EngineProcess, News, Order
from server.engine.running import RunningJobs
from server.engine.stats import EngineStats
from server.engine.translate import core_request
from server.engine.warmup import warm_up_jobs
from server.errors import ConfigurationError, RequestFailure
from server.settings import ModelSettings

log = logging.getLogger(__name__)

# How long an engine may take to end by itself, then its processes are killed; vLLM's own default.
SHUTDOWN_S = 5.0


class EngineFailed(Exception):  # noqa: N818  # it says what it is
    """The engine did not start. The reason is in its words, or in the log before."""


class VLLMEngine:
    """One model on vLLM.

    context_size: most tokens of prompt and completion together. stats: the model's metrics.
    """

    def __init__(self, settings: ModelSettings, context_size: int, stats: EngineStats) -> None:
        self.settings = settings
        self.context_size = context_size
        self._stats = stats
        self._process = EngineProcess()
        self._news = News()  # the last that it said
        self._link: Link | None = None
        self._is_ready = False
        self._running = RunningJobs(stats, self.abort)
        self._aborted: list[str] = []  # not yet told to the engine
        self._watching: asyncio.Task[str] | None = None  # the life of the process

    @property
    def num_running(self) -> int:
        return len(self._running)

    async def start(self, report: Report) -> None:
        report(Status(Phase.IMPORTING))
        self._link = link = Link()
        order = Order(
            model=self.settings,
            context_size=self.context_size,
            inputs=link.inputs,
            outputs=link.outputs,
            handshake=link.handshake,
        )
        self._watching = asyncio.create_task(self._watch(order, report))
        await self._connected(link, self._watching)
        link.listen(self._running.take, self._process.kill)
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))
        self._is_ready = True
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._link is not None, "started"
        self._running.add(job, sink)
        self._link.add(core_request(job))

    def abort(self, job_id: str) -> None:
        if not self._running.discard(job_id):
            return
        if not self._aborted:  # those of one pass, a request's candidates say, go together
            asyncio.get_running_loop().call_soon(self._tell_aborted)
        self._aborted.append(job_id)

    async def died(self) -> str:
        assert self._watching is not None, "started"
        return await asyncio.shield(self._watching)

    async def close(self) -> None:
        self._running.fail()
        # One that is still starting has nothing to tidy up, and would not listen.
        await self._process.stop(SHUTDOWN_S if self._is_ready else 0)
        if self._watching is not None:
            self._watching.cancel()
        if self._link is not None:
            self._link.close()

    async def _connected(self, link: Link, watching: asyncio.Task[str]) -> None:
        """Until the engine has started. Raises ConfigurationError or EngineFailed where it ends instead."""
        connecting = asyncio.create_task(link.connected())
        try:
            await asyncio.wait((connecting, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            connecting.cancel()
            await asyncio.wait((connecting,))  # it takes its socket out of the loop
        if watching.done():
            if self._news.is_final:
                raise ConfigurationError(self._news.error)
            raise EngineFailed(watching.result())

    async def _watch(self, order: Order, report: Report) -> str:
        """The life of the process: start it, hear what it says, and return how it has ended."""
        async for news in self._process.start(order):
            self._news = news
            if news.loading:
                report(Status(Phase.LOADING))
            if news.runner:
                log.info("model %s: on vLLM's %s model runner", self.settings.id, news.runner)
        how = await self._process.ended()
        self._running.fail()
        self._stats.stopped()
        return f"{how}: {self._news.error}" if self._news.error else how

    def _tell_aborted(self) -> None:
        aborted, self._aborted = self._aborted, []
        if self._link is not None:
            self._link.abort(aborted)

    async def _answered(self, job: Job) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def sink(output: EngineOutput | RequestFailure) -> None:
            with contextlib.suppress(asyncio.InvalidStateError):
                if isinstance(output, RequestFailure):
                    done.set_exception(output)
                elif output.finish_reason is not None:
                    done.set_result(None)

        self.submit(job, sink)
        await done
