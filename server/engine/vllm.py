"""The real engine: vLLM, in a process of its own (host.py), which alone imports it.

Tokens in, tokens out: vLLM's tokenizer is not even loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from server.engine.base import EngineOutput, Job, Phase, Report, Sink, Status, stopped
from server.engine.link import Link
from server.engine.processes import EngineProcess, News, Order
from server.engine.stats import EngineStats, RequestStats
from server.engine.translate import core_request, engine_output
from server.engine.warmup import warm_up_jobs
from server.engine.wire import CoreOutput, CoreOutputs
from server.errors import ConfigurationError, RequestFailure
from server.settings import ModelSettings

log = logging.getLogger(__name__)

# How long an engine may take to end by itself, then its processes are killed; vLLM's own default.
SHUTDOWN_S = 5.0


@dataclass(slots=True)
class Running:
    """A job that the engine works on. is_quiet: its next output, unless it is the last, is but tokens. held:
    tokens that are handed out with later ones."""

    job: Job
    sink: Sink
    stats: RequestStats
    is_quiet: bool = False
    held: list[int] = field(default_factory=list)


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
        self._running: dict[str, Running] = {}
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
        link.listen(self._take, self._process.kill)
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))
        self._is_ready = True
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._link is not None, "started"
        self._running[job.id] = Running(job, sink, RequestStats(len(job.prompt_ids)))
        self._link.add(core_request(job))

    def abort(self, job_id: str) -> None:
        if self._running.pop(job_id, None) is None:
            return
        if not self._aborted:  # those of one pass, a request's candidates say, go together
            asyncio.get_running_loop().call_soon(self._tell_aborted)
        self._aborted.append(job_id)

    async def died(self) -> str:
        assert self._watching is not None, "started"
        return await asyncio.shield(self._watching)

    async def close(self) -> None:
        self._fail_all()
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
        how = await self._process.ended()
        self._fail_all()
        self._stats.stopped()
        return f"{how}: {self._news.error}" if self._news.error else how

    def _take(self, steps: list[CoreOutputs]) -> None:
        """Hand out what has come, all of it in one pass; of several steps, a job's tokens together."""
        behind: dict[str, Running] | None = {} if len(steps) > 1 else None
        for outputs in steps:
            num_tokens = 0
            for output in outputs.outputs:
                running = self._running.get(output.request_id)
                if running is None:
                    continue
                num_tokens += len(output.new_token_ids)
                running.stats.num_tokens += len(output.new_token_ids)
                if not (running.is_quiet and output.is_quiet):  # as by far the most are
                    self._hand_out(running, output, outputs.timestamp)
                elif behind is None:
                    running.sink(EngineOutput(output.new_token_ids))
                else:
                    running.held += output.new_token_ids
                    behind[output.request_id] = running
            self._stats.record(outputs, num_tokens)
        for running in (behind or {}).values():
            if running.held and running.job.id in self._running:
                held, running.held = running.held, []
                running.sink(EngineOutput(held))

    def _hand_out(self, running: Running, output: CoreOutput, timestamp: float) -> None:
        output.new_token_ids[:0], running.held = running.held, []
        self._stats.note(running.stats, output, timestamp)
        running.is_quiet = running.job.num_logprobs is None
        if output.finish_reason is not None:
            del self._running[output.request_id]
        try:
            running.sink(engine_output(running.job, output))
        except RequestFailure as failure:
            self.abort(output.request_id)
            running.sink(failure)

    def _fail_all(self) -> None:
        running, self._running = self._running, {}
        for one in running.values():
            one.sink(stopped())

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
