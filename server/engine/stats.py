"""vLLM's own metrics, recorded once in many steps: its Prometheus logger, fed without AsyncLLM.

All but one of them: vllm:inter_token_latency_seconds would be an observation for each token. How far apart a
request's tokens are is in vllm:request_time_per_output_token_seconds, an observation for each request.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engine.core import CoreOutput, CoreOutputs

WRITE_EVERY_S = 0.2
# Of SchedulerStats: what belongs to its step alone, if there is any. The rest are gauges, of which the last
# value counts, and the prefix cache's counts, which add up.
COUNTED = (
    "connector_prefix_cache_stats",
    "kv_cache_eviction_events",
    "spec_decoding_stats",
    "kv_connector_stats",
    "ec_connector_stats",
    "cudagraph_stats",
    "perf_stats",
)


class RequestStats:
    """One request as the metrics see it. state: vLLM's RequestStateStats."""

    __slots__ = ("max_tokens", "num_cached_tokens", "num_prompt_tokens", "num_tokens", "state")

    def __init__(self, state: Any, num_prompt_tokens: int, max_tokens: int) -> None:
        self.state = state
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.num_cached_tokens = 0
        self.num_tokens = 0


class EngineStats:
    """The metrics of one model's engine, in a registry of its own.

    On the process-wide one, where vLLM puts them, each further engine would take the earlier ones' away.
    """

    def __init__(self, config: Any, engine_indexes: list[int], registry: CollectorRegistry) -> None:
        from vllm.v1 import engine
        from vllm.v1.metrics import stats
        from vllm.v1.metrics.loggers import PrometheusStatLogger

        class Logger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM is not type-checked
            _gauge_cls = partial(Gauge, registry=registry)
            _counter_cls = partial(Counter, registry=registry)
            _histogram_cls = partial(Histogram, registry=registry)

        self._logger = Logger(config, engine_indexes)
        self._logger.log_engine_initialized()
        self._engine, self._stats = engine, stats
        self._lora = stats.LoRARequestStates(log_stats=False)  # there are no adapters
        self._iteration = stats.IterationStats()
        self._unwritten: dict[int, dict[str, Any]] = {}  # by engine index
        self._timer: asyncio.TimerHandle | None = None

    def request(self, num_prompt_tokens: int, max_tokens: int) -> RequestStats:
        """For a request that begins now."""
        state = self._stats.RequestStateStats(arrival_time=time.time())
        return RequestStats(state, num_prompt_tokens, max_tokens)

    def note(self, request: RequestStats, output: CoreOutput, timestamp: float) -> None:
        """An output that is more than one of many: a request's first, its last, or one with events.

        timestamp: the engine's, of time.monotonic.
        """
        iteration, state, is_first = self._iteration, request.state, request.state.first_token_ts == 0.0
        if output.events is not None:
            events = msgspec.convert(output.events, list[self._engine.EngineCoreEvent])  # type: ignore[name-defined]
            iteration.update_from_events(output.request_id, events, is_first, state, self._lora, None)
        if is_first:
            state.first_token_ts = timestamp
            iteration.time_to_first_tokens_iter.append(time.time() - state.arrival_time)
            if output.prefill_stats is not None:
                prefill = msgspec.convert(output.prefill_stats, self._stats.PrefillStats)
                iteration.prompt_token_stats.update_from_output(prefill)
                request.num_cached_tokens = prefill.num_cached_tokens
        if output.finish_reason is not None:
            state.num_generation_tokens, state.last_token_ts = request.num_tokens, timestamp
            iteration.update_from_finished_request(
                self._engine.FinishReason(output.finish_reason),
                output.request_id,
                request.num_prompt_tokens,
                request.max_tokens,
                state,
                request.num_cached_tokens,
            )

    def record(self, outputs: CoreOutputs, num_tokens: int) -> None:
        """The end of a step that generated so many tokens. Written down a little later, with others'."""
        self._iteration.num_generation_tokens += num_tokens
        stats: dict[str, Any] | None = outputs.scheduler_stats
        if stats is not None and any(stats[name] for name in COUNTED):
            self._write_scheduler(outputs.engine_index, stats)
        elif stats is not None:
            earlier = self._unwritten.get(outputs.engine_index)
            if earlier is not None:
                counts, earlier_counts = stats["prefix_cache_stats"], earlier["prefix_cache_stats"]
                for name in ("requests", "queries", "hits"):
                    counts[name] += earlier_counts[name]
            self._unwritten[outputs.engine_index] = stats
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._write)

    def _write(self) -> None:
        self._timer = None
        iteration, self._iteration = self._iteration, self._stats.IterationStats()
        self._logger.record(None, iteration)
        unwritten, self._unwritten = self._unwritten, {}
        for engine_index, stats in unwritten.items():
            self._write_scheduler(engine_index, stats)

    def _write_scheduler(self, engine_index: int, stats: dict[str, Any]) -> None:
        """stats: vLLM's SchedulerStats as they travel."""
        known = msgspec.convert(stats, self._stats.SchedulerStats)
        self._logger.record(known, None, engine_idx=engine_index)
