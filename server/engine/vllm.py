"""The real engine: vLLM, which runs the model in a process of its own.

Tokens in, tokens out: vLLM's tokenizer is not even loaded. vllm is imported late, because the import takes
seconds and the HTTP port is to be open before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from server.engine.base import EngineOutput, Job, Phase, Report, Sink, Status, stopped
from server.engine.core import Core, CoreOutput, CoreOutputs
from server.engine.processes import SERVER_PID, in_builder_thread, kill, with_descendants
from server.engine.stats import EngineStats, RequestStats
from server.engine.translate import core_request, engine_output
from server.engine.warmup import warm_up_jobs
from server.errors import ConfigurationError, RequestFailure, ServiceUnavailable
from server.settings import ModelSettings
from server.yamlfile import nearest

log = logging.getLogger(__name__)

# Set before vllm is imported, here and so in every process that it starts: nothing asks the network for
# anything.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_USE_MODELSCOPE": "0",
    # Our context length is vLLM's less one, see _engine_arguments.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    # A broken model's request fails instead of getting noise.
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
}

# Noise of vLLM's processes, for a log that is read: progress bars, warnings of libraries to their callers.
QUIET = {
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

# How long an engine may take to end by itself, then its processes are killed; vLLM's own default. On the CPU
# its clean-up is done after 4.5 s; what follows, for 4 s more, is Python taking torch apart.
SHUTDOWN_S = 5.0

# One engine at a time is built: devices travel to vLLM's processes through this process's environment.
_building = threading.Lock()


@dataclass(slots=True)
class Running:
    """A job that the engine works on. is_quiet: its next output, unless it is the last, is but tokens."""

    job: Job
    sink: Sink
    stats: RequestStats
    is_quiet: bool = False


class VLLMEngine:
    """One model on vLLM.

    context_size: most tokens of prompt and completion together. registry: where vLLM's own metrics go.
    """

    def __init__(self, settings: ModelSettings, context_size: int, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.context_size = context_size
        self._registry = registry
        self._core: Core | None = None
        self._stats: EngineStats | None = None
        self._closing = False
        self._roots: list[int] = []  # processes started for this engine
        self._others: set[int | None] | None = None  # while it is being built: processes that are not its own
        self._running: dict[str, Running] = {}
        self._aborted: list[str] = []  # not yet told to the engine
        self._serving: asyncio.Task[None] | None = None

    @property
    def num_running(self) -> int:
        return len(self._running)

    async def start(self, report: Report) -> None:
        report(Status(Phase.IMPORTING))
        await in_builder_thread(_import)
        report(Status(Phase.LOADING))
        self._core, self._stats = core, _ = await in_builder_thread(self._build)
        self._serving = asyncio.create_task(self._serve(core))
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._core is not None and self._stats is not None, "started"  # noqa: PT018
        self._running[job.id] = Running(job, sink, self._stats.request(len(job.prompt_ids), job.max_tokens))
        self._core.add(core_request(job))

    def abort(self, job_id: str) -> None:
        if self._running.pop(job_id, None) is None:
            return
        if not self._aborted:  # those of one pass, a request's candidates say, go together
            asyncio.get_running_loop().call_soon(self._tell_aborted)
        self._aborted.append(job_id)

    async def died(self) -> str:
        assert self._serving is not None, "started"
        await asyncio.wait((self._serving,))
        return "the engine process ended by itself"

    async def close(self) -> None:
        self._closing = True
        self._fail_all()
        if self._serving is not None:
            self._serving.cancel()
        while (
            self._others is not None
        ):  # being built: that cannot be interrupted, but what it starts can be ended
            kill(with_descendants(self._started()))
            await asyncio.sleep(0.02)
        processes = with_descendants(self._roots)
        core, self._core = self._core, None
        if core is not None:
            await asyncio.to_thread(core.shutdown, SHUTDOWN_S)
        kill(processes)

    def _build(self) -> tuple[Core, EngineStats]:
        with _building, _environment(self.settings.devices):
            args = _engine_arguments(self.settings, self.context_size)
            config = args.create_engine_config()
            runner = "runner_v2" if config.use_v2_model_runner else "runner_v1"
            config.model_config.logits_processors = [f"sampling.{runner}:SamplingProcessor"]
            if self._closing:
                raise ServiceUnavailable("the server is shutting down")
            self._others = {child.pid for child in multiprocessing.active_children()}
            try:
                core = Core(config)
                return core, EngineStats(config, core.engine_indexes, self._registry)
            finally:
                self._roots, self._others = self._started(), None

    def _started(self) -> list[int]:
        """The processes that vLLM has started for this engine since its building began."""
        others = self._others or set()
        return [
            child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in others
        ]

    async def _serve(self, core: Core) -> None:
        """Until the engine ends, however."""
        try:
            await core.serve(self._take)
        except asyncio.CancelledError:
            if self._closing:
                raise
        except Exception:
            log.exception("model %s: what its engine says cannot be read", self.settings.id)
        finally:
            self._fail_all()

    def _take(self, outputs: CoreOutputs) -> None:
        """Hand out what a step has brought, all of it in one pass."""
        stats, num_tokens = self._stats, 0
        assert stats is not None, "started"
        for output in outputs.outputs:
            running = self._running.get(output.request_id)
            if running is None:
                continue
            num_tokens += len(output.new_token_ids)
            running.stats.num_tokens += len(output.new_token_ids)
            if running.is_quiet and output.is_quiet:  # as by far the most are
                running.sink(EngineOutput(output.new_token_ids))
            else:
                self._hand_out(running, output, stats, outputs.timestamp)
        stats.record(outputs, num_tokens)

    def _fail_all(self) -> None:
        running, self._running = self._running, {}
        for one in running.values():
            one.sink(stopped())

    def _hand_out(self, running: Running, output: CoreOutput, stats: EngineStats, timestamp: float) -> None:
        stats.note(running.stats, output, timestamp)
        running.is_quiet = running.job.num_logprobs is None
        if output.finish_reason is not None:
            del self._running[output.request_id]
        try:
            running.sink(engine_output(running.job, output))
        except RequestFailure as failure:
            self.abort(output.request_id)
            running.sink(failure)

    def _tell_aborted(self) -> None:
        aborted, self._aborted = self._aborted, []
        if self._core is not None:
            self._core.abort(aborted)

    async def _answered(self, job: Job) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def sink(output: EngineOutput | RequestFailure) -> None:
            if isinstance(output, RequestFailure):
                done.set_exception(output)
            elif output.finish_reason is not None:
                done.set_result(None)

        self.submit(job, sink)
        await done


def _import() -> None:
    # A line of vLLM's own log, a hundred at a start, is for those who ask for debugging.
    quiet = {} if logging.getLogger().isEnabledFor(logging.DEBUG) else QUIET
    for name, value in (OFFLINE | quiet).items():
        os.environ.setdefault(name, value)
    import vllm.v1.engine.core_client  # noqa: F401


def _engine_arguments(settings: ModelSettings, context_size: int) -> Any:
    """vLLM's engine arguments. Raises ConfigurationError for one that it does not know, or refuses."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in settings.engine_args:
        if name not in known:
            raise ConfigurationError(
                f'model {settings.id}: engine_args has "{name}", which is not an engine argument of vLLM'
                f"{nearest(name, known)}"
            )
    arguments: dict[str, Any] = {
        "model": str(settings.directory),
        "served_model_name": settings.id,
        "skip_tokenizer_init": True,  # text is ours
        "dtype": settings.dtype,
        # One more than ours: vLLM always generates, and a request that only scores a prompt may fill the
        # context.
        "max_model_len": context_size + 1,
        "max_num_seqs": settings.max_num_seqs,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "quantization": settings.quantization,
        "load_format": "safetensors",
        "enable_log_requests": False,
    }
    if current_platform.is_cpu():
        # Compiling takes 45 s and gains a tenth (engine-facts); reserving memory by share would take the
        # whole machine's.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30)}
    try:
        return AsyncEngineArgs(**(arguments | settings.engine_args))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"model {settings.id}: vLLM refuses the engine arguments: {error}"
        ) from error


@contextlib.contextmanager
def _environment(devices: tuple[int, ...]) -> Iterator[None]:
    """What the processes of one engine find in their environment."""
    os.environ[SERVER_PID] = str(os.getpid())
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif devices:
            del os.environ["CUDA_VISIBLE_DEVICES"]
