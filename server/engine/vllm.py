"""The real engine: vLLM's AsyncLLM, which runs the model in a process of its own.

Tokens in, tokens out: vLLM's tokenizer is not even loaded. This is the only module of the server that imports
vllm, and it does so late, because the import takes seconds and the HTTP port is to be open before.
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
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engine.base import EngineOutput, Job, Phase, Report, Sink, Status
from server.engine.processes import SERVER_PID, in_builder_thread, kill, with_descendants
from server.engine.translate import engine_output, sampling_params
from server.engine.warmup import warm_up_jobs
from server.errors import ConfigurationError, InternalError, RequestFailure, ServiceUnavailable
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


class VLLMEngine:
    """One model on vLLM.

    context_size: most tokens of prompt and completion together. registry: where vLLM's own metrics go.
    """

    def __init__(self, settings: ModelSettings, context_size: int, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.context_size = context_size
        self._registry = registry
        self._llm: Any = None
        self._closing = False
        self._roots: list[int] = []  # processes started for this engine
        self._others: set[int | None] | None = None  # while it is being built: processes that are not its own
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, report: Report) -> None:
        report(Status(Phase.IMPORTING))
        await in_builder_thread(_import)
        report(Status(Phase.LOADING))
        self._llm = await in_builder_thread(self._build)
        for number, jobs in enumerate(steps := warm_up_jobs(self.context_size)):
            report(Status(Phase.WARMING, number, len(steps)))
            await asyncio.gather(*(self._answered(job) for job in jobs))
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job, sink))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    def abort(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()

    async def died(self) -> str:
        while self._closing or not self._llm.errored:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # the flag is set by a thread of vLLM's that waits for the process's end
        return "the engine process ended by itself"

    async def close(self) -> None:
        self._closing = True
        for job_id in list(self._tasks):
            self.abort(job_id)
        while (
            self._others is not None
        ):  # being built: that cannot be interrupted, but what it starts can be ended
            kill(with_descendants(self._started()))
            await asyncio.sleep(0.02)
        processes = with_descendants(self._roots)
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, timeout=SHUTDOWN_S)
        kill(processes)

    def _build(self) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        with _building, _environment(self.settings.devices):
            args = _engine_arguments(self.settings, self.context_size)
            config = args.create_engine_config()
            runner = "runner_v2" if config.use_v2_model_runner else "runner_v1"
            config.model_config.logits_processors = [f"sampling.{runner}:SamplingProcessor"]
            if self._closing:
                raise ServiceUnavailable("the server is shutting down")
            self._others = {child.pid for child in multiprocessing.active_children()}
            try:
                return AsyncLLM.from_vllm_config(config, stat_loggers=[_metrics_logger(self._registry)])
            finally:
                self._roots, self._others = self._started(), None

    def _started(self) -> list[int]:
        """The processes that vLLM has started for this engine since its building began."""
        others = self._others or set()
        return [
            child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in others
        ]

    async def _run(self, job: Job, sink: Sink) -> None:
        llm = self._llm
        try:
            outputs = llm.generate(
                {"type": "token", "prompt_token_ids": job.prompt_ids}, sampling_params(job), job.id
            )
            async for output in outputs:
                sink(engine_output(output, job))
        except asyncio.CancelledError:
            raise
        except RequestFailure as failure:
            sink(failure)
        except Exception:
            if self._closing or llm.errored:
                sink(
                    ServiceUnavailable(
                        "the engine stopped while it answered; it is being restarted", retry_after_s=10
                    )
                )
                return
            log.exception("request %s failed in the engine", job.request_id)
            sink(InternalError(job.request_id))

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
    import vllm.v1.engine.async_llm  # noqa: F401


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


def _metrics_logger(registry: CollectorRegistry) -> Any:
    """vLLM's Prometheus logger on a registry of this model's own.

    On the process-wide one, where vLLM puts it, each further engine would take the earlier engines' metrics
    away.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class MetricsLogger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM is not type-checked
        _gauge_cls = partial(Gauge, registry=registry)
        _counter_cls = partial(Counter, registry=registry)
        _histogram_cls = partial(Histogram, registry=registry)

    return MetricsLogger
