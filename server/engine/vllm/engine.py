"""The real engine: vLLM in a process of its own (host.py), which alone imports it.

Token ids in, token ids out: vLLM's tokenizer is not even loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path

from server.config.model import ModelSettings
from server.engine.base import Death, EngineOutput, Job, Phase, Report, Sink, Status
from server.engine.vllm.client import EngineClient
from server.engine.vllm.layers import LAYER
from server.engine.vllm.link import Link, handshake_of, inputs_of, outputs_of
from server.engine.vllm.processes import BEAT, KILLED_S, EngineProcess, News, Order, num_threads
from server.engine.vllm.pulse import Processes, Pulse, Vitals
from server.engine.vllm.size import held_bytes, host_memory_lacks
from server.engine.vllm.standby import Standby
from server.engine.vllm.stats import EngineStats
from server.engine.vllm.warmup import warm_up_jobs
from server.engine.vllm.wire import IN_WORKERS, SLEEP, WAKE
from server.errors import ConfigurationError, EngineFailed, Failure, InternalError, RequestFailure
from server.observe.versions import CPU_BUILD, installed

log = logging.getLogger(__name__)

# Seconds for an engine to end by itself before its processes are killed; vLLM's own default.
SHUTDOWN_S = 5.0
# Seconds for it to fall asleep or wake up: its weights, perhaps a hundred GiB, are copied.
MOVE_S = 300.0
LAST_WORDS_S = 1.0  # seconds between its message that it has failed and its reason


class VLLMEngine:
    """One model on vLLM.

    context_size: the largest number of tokens of prompt and completion together. stats: the model's metrics.
    workers: folders of the links of other processes, which are clients of the engine too. hang_timeout_s:
    without a sign of life (pulse.py); 0: no limit. warms_up: before it is ready; an engine that replaces a
    lost one does not, because requests wait for it. standby: where its process comes from.
    """

    def __init__(
        self,
        settings: ModelSettings,
        context_size: int,
        stats: EngineStats,
        workers: Sequence[Path] = (),
        *,
        hang_timeout_s: float = 20.0,
        warms_up: bool = True,
        standby: Standby | None = None,
    ) -> None:
        self.settings = settings
        self.context_size = context_size
        self._stats = stats
        self._process = EngineProcess()
        self._news = News()  # the last news of the process
        self._workers = workers
        self._warms_up = warms_up
        self._standby = standby
        self._client: EngineClient | None = None
        self.cache_tokens = 0
        self._is_ready = False
        self._watching: asyncio.Task[str] | None = None  # the life of the process
        self._pulse = Pulse(
            self._look,
            self._is_answered,
            self._has_stepped,
            hang_timeout_s=hang_timeout_s,
            num_threads=num_threads(settings),
        )
        self._feeling: asyncio.Task[None] | None = None  # watches its pulse
        self._num_steps = 0  # at the last look
        self._hang = ""

    async def start(self, report: Report) -> None:
        report(Status(Phase.IMPORTING))
        self._stats.stopped()  # so that its gauges exist from the beginning
        if self._standby is not None:
            self._process = self._standby.take()
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
        self._processes = Processes(order.failures.with_name(BEAT), order.failures.with_name(LAYER))
        self._feeling = asyncio.create_task(self._feel())
        await self._connected(link, watching)
        self.cache_tokens = link.cache_tokens
        client.listen(self._dying)
        try:
            if self._warms_up:
                with self._stats.paused():
                    await self._unless_it_ends(self._warm_up(report), watching)
        except RequestFailure as failure:
            cause = failure.cause if isinstance(failure, InternalError) else failure.message
            raise EngineFailed(f"during the warm-up: {cause}") from None
        self._is_ready = self._pulse.is_up = True
        report(Status(Phase.READY))
        if self._standby is not None:
            self._standby.want()

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._client is not None, "started"
        self._client.submit(job, sink)

    def abort(self, job_id: str) -> None:
        if self._client is not None:
            self._client.abort(job_id)

    def memory(self) -> int:
        # A GPU engine takes its configured share, whatever the machine's memory is.
        pid = self._process.pid if installed(CPU_BUILD) else None
        return held_bytes(pid) if pid else 0

    async def sleep(self) -> None:
        if self.settings.sleep_level == 1 and (lacks := host_memory_lacks(self.settings)):
            raise EngineFailed(lacks)
        await self._move(SLEEP, self.settings.sleep_level, "abort")

    async def wake(self) -> None:
        if self.settings.sleep_level == 1:
            await self._move(WAKE)
            return
        await self._move(WAKE, ["weights"])  # allocates the memory of the weights, without their contents
        await self._move(IN_WORKERS, "reload_weights")
        await self._move(WAKE)

    async def died(self) -> Death:
        assert self._watching is not None, "started"
        assert self._feeling is not None, "started"
        await asyncio.wait((self._watching, self._feeling), return_when=asyncio.FIRST_COMPLETED)
        if self._hang:  # it is being killed, which may not help against a driver
            await asyncio.wait((self._watching,), timeout=KILLED_S)
            return Death(f"the engine hangs: {self._hang}", is_hang=True)
        return Death(self._watching.result())

    async def close(self) -> None:
        if self._client is not None:
            self._client.stop()
        if self._feeling is not None:
            self._feeling.cancel()
        # An engine that is still starting has nothing to clean up, and would not listen. One that has no
        # other processes has nothing either, and would spend seconds freeing its memory.
        await self._process.stop(SHUTDOWN_S if self._is_ready and not self._process.is_alone else 0)
        if self._watching is not None:
            self._watching.cancel()
        if self._client is not None:
            self._client.close()

    async def _move(self, method: str, *arguments: object) -> None:
        """Move its weights with a method of vLLM's engine, which does not answer meanwhile. Raises
        EngineFailed if it could not, or has ended."""
        assert self._client is not None, "started"
        assert self._watching is not None, "started"
        self._pulse.is_up = False
        try:
            async with asyncio.timeout(MOVE_S):
                await self._unless_it_ends(self._client.link.call(method, *arguments), self._watching)
        except TimeoutError:
            raise EngineFailed(f"vLLM's {method} did not end within {MOVE_S:.0f} s") from None
        self._pulse.is_up = True

    async def _connected(self, link: Link, watching: asyncio.Task[str]) -> None:
        """Return when the engine has started. Raises ConfigurationError or EngineFailed if
        it ends instead."""
        await self._unless_it_ends(link.connected(), watching)

    async def _unless_it_ends(self, work: Coroutine[None, None, None], watching: asyncio.Task[str]) -> None:
        """Await the work; it is cancelled if the process ends. Raises what the work raises;
        ConfigurationError or EngineFailed if the process has ended."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            await asyncio.wait((working,))
        if watching.done():
            raise self._failed(watching.result())
        working.result()

    def _failed(self, how: str) -> Failure:
        """The failure of a start that ended like this."""
        if self._news.is_final:
            return ConfigurationError(self._news.error)
        return EngineFailed(how)

    async def _warm_up(self, report: Report) -> None:
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))

    async def _watch(self, order: Order, report: Report, client: EngineClient) -> str:
        """Run the process: start it, take note of its news, and return how it ended."""
        async for news in self._process.start(order):
            self._news = news
            if news.error:  # its last news; its other processes may take longer to end
                self._process.kill()
            if news.loading:
                report(Status(Phase.LOADING))
            if news.runner:
                log.info("model %s: it runs on vLLM's %s model runner", self.settings.id, news.runner)
        how = await self._process.ended()
        client.stop()
        self._stats.stopped()
        return self._hang or self._news.error or how

    async def _feel(self) -> None:
        """Wait until the engine hangs, then kill it."""
        self._hang = await self._pulse.stops()
        log.error("model %s: the engine hangs and is killed: %s", self.settings.id, self._hang)
        self._process.kill()

    def _look(self) -> Vitals:
        return self._processes.look(self._process.pid or 0)

    def _is_answered(self) -> bool:
        assert self._client is not None, "started"
        link = self._client.link
        if is_answered := link.is_answered:
            link.ask()
        return is_answered

    def _has_stepped(self) -> bool:
        """Whether it made a step, or had nothing to do when it last answered."""
        assert self._client is not None, "started"
        signs = self._client.link.signs
        before, self._num_steps = self._num_steps, signs.num_steps
        return not signs.has_work or before != signs.num_steps

    def _dying(self) -> None:
        """The engine has failed; give it a moment to say why."""
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
