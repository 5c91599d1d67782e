"""The real engine: vLLM, in a process of its own (host.py), which alone imports it.

Tokens in, tokens out: vLLM's tokenizer is not even loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from server.config.settings import ModelSettings
from server.engine.base import EngineOutput, Job, Phase, Report, Sink, Status
from server.engine.vllm.client import EngineClient
from server.engine.vllm.link import Link, handshake_of, inputs_of, outputs_of
from server.engine.vllm.processes import EngineProcess, News, Order
from server.engine.vllm.stats import EngineStats
from server.engine.vllm.warmup import warm_up_jobs
from server.errors import ConfigurationError, EngineFailed, Failure, InternalError, RequestFailure

log = logging.getLogger(__name__)

# How long an engine may take to end by itself, then its processes are killed; vLLM's own default.
SHUTDOWN_S = 5.0
LAST_WORDS_S = 1.0  # from its message that it has failed to its reason


class VLLMEngine:
    """One model on vLLM.

    context_size: most tokens of prompt and completion together. stats: the model's metrics. workers: the
    folders of the links of other processes, which are clients of the engine too.
    """

    def __init__(
        self, settings: ModelSettings, context_size: int, stats: EngineStats, workers: Sequence[Path] = ()
    ) -> None:
        self.settings = settings
        self.context_size = context_size
        self._stats = stats
        self._process = EngineProcess()
        self._news = News()  # the last that it said
        self._workers = workers
        self._client: EngineClient | None = None
        self._is_ready = False
        self._watching: asyncio.Task[str] | None = None  # the life of the process

    @property
    def num_running(self) -> int:
        return self._client.num_running if self._client is not None else 0

    async def start(self, report: Report) -> None:
        report(Status(Phase.IMPORTING))
        self._stats.stopped()  # its gauges are there from the beginning
        link = Link()
        self._client = client = EngineClient(link, self._stats)
        clients = [link.folder, *self._workers]
        order = Order(
            model=self.settings,
            context_size=self.context_size,
            inputs=[inputs_of(folder) for folder in clients],
            outputs=[outputs_of(folder) for folder in clients],
            handshake=handshake_of(link.folder),
            failures=link.folder / "failures",
        )
        self._watching = watching = asyncio.create_task(self._watch(order, report, client))
        await self._connected(link, watching)
        client.listen(self._dying)
        try:
            await self._warm_up(report)
        except RequestFailure as failure:
            if watching.done():
                raise self._failed(watching.result()) from None
            cause = failure.cause if isinstance(failure, InternalError) else failure.message
            raise EngineFailed(f"while warming up: {cause}") from None
        self._is_ready = True
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._client is not None, "started"
        self._client.submit(job, sink)

    def abort(self, job_id: str) -> None:
        if self._client is not None:
            self._client.abort(job_id)

    async def died(self) -> str:
        assert self._watching is not None, "started"
        return await asyncio.shield(self._watching)

    async def close(self) -> None:
        if self._client is not None:
            self._client.fail()
        # One that is still starting has nothing to tidy up, and would not listen.
        await self._process.stop(SHUTDOWN_S if self._is_ready else 0)
        if self._watching is not None:
            self._watching.cancel()
        if self._client is not None:
            self._client.close()

    async def _connected(self, link: Link, watching: asyncio.Task[str]) -> None:
        """Until the engine has started. Raises ConfigurationError or EngineFailed where it ends instead."""
        connecting = asyncio.create_task(link.connected())
        try:
            await asyncio.wait((connecting, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            connecting.cancel()
            await asyncio.wait((connecting,))  # it takes its socket out of the loop
        if watching.done():
            raise self._failed(watching.result())

    def _failed(self, how: str) -> Failure:
        """What a start that has ended so fails with."""
        if self._news.is_final:
            return ConfigurationError(self._news.error)
        return EngineFailed(how)

    async def _warm_up(self, report: Report) -> None:
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))

    async def _watch(self, order: Order, report: Report, client: EngineClient) -> str:
        """The life of the process: start it, hear what it says, and return how it has ended."""
        async for news in self._process.start(order):
            self._news = news
            if news.error:  # its last word; its others may take their time
                self._process.kill()
            if news.loading:
                report(Status(Phase.LOADING))
            if news.runner:
                log.info("model %s: on vLLM's %s model runner", self.settings.id, news.runner)
        how = await self._process.ended()
        client.fail()
        self._stats.stopped()
        return self._news.error or how

    def _dying(self) -> None:
        """It has failed, and has a moment to say why."""
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._process.kill)

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
