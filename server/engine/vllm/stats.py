"""An engine's activity as Prometheus metrics under vLLM's names, so that dashboards made for vLLM work.

Recorded once per step and once per request. vllm:inter_token_latency_seconds, which vLLM records for each
token, is recorded once for all requests of a step whose last tokens came at the same time, which is mostly
all of them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engine.vllm.wire import CoreOutput, CoreOutputs, Signs

LABELS = ("model_name", "engine")
QUEUED, SCHEDULED, PREEMPTED = 1, 2, 3  # vLLM's EngineCoreEventType
REASONS = ("stop", "length", "abort", "error", "repetition")  # vLLM's FinishReason

# vLLM's buckets, v1/metrics/buckets.py.
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
REQUEST_TOKENS = tuple(mantissa * 10**k for k in range(6) for mantissa in (1, 2, 5))
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(slots=True)
class RequestStats:
    """One request for the metrics. Times of time.monotonic, seconds; 0: not yet. cached_tokens: prompt tokens
    that the engine did not have to compute; None: unknown yet."""

    num_prompt_tokens: int
    num_tokens: int = 0
    arrived: float = field(default_factory=time.monotonic)
    queued: float = 0.0
    scheduled: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    cached_tokens: int | None = None


class EngineMetrics:
    """The metrics in a registry; each model's engines have labels of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def family(kind: Any, name: str, text: str, *more_labels: str, **options: Any) -> Any:
            if kind is Gauge:  # with several processes, the one with the engine sets it
                options["multiprocess_mode"] = "livemostrecent"
            return kind(f"vllm:{name}", text, (*LABELS, *more_labels), registry=registry, **options)

        def seconds(name: str, text: str) -> Any:
            return family(Histogram, f"{name}_seconds", text, buckets=REQUEST_S)

        self.running = family(Gauge, "num_requests_running", "Requests in the batches of the model")
        self.waiting = family(Gauge, "num_requests_waiting", "Requests that wait to be scheduled")
        self.kv_usage = family(Gauge, "kv_cache_usage_perc", "KV cache in use; 1 is all of it")
        self.queries = family(Counter, "prefix_cache_queries", "Tokens looked up in the prefix cache")
        self.hits = family(Counter, "prefix_cache_hits", "Tokens found in the prefix cache")
        # Only for engines with speculative decoding.
        self.drafts = family(Counter, "spec_decode_num_drafts", "Steps of requests that had draft tokens")
        self.draft_tokens = family(Counter, "spec_decode_num_draft_tokens", "Draft tokens proposed")
        self.accepted = family(Counter, "spec_decode_num_accepted_tokens", "Draft tokens that were accepted")
        self.preemptions = family(Counter, "num_preemptions", "Requests preempted for lack of KV cache")
        self.prompt_tokens = family(Counter, "prompt_tokens", "Prompt tokens processed")
        self.tokens = family(Counter, "generation_tokens", "Tokens generated")
        self.ended = family(
            Counter, "request_success", "Requests that ended without an error", "finished_reason"
        )
        self.step_tokens = family(
            Histogram, "iteration_tokens_total", "Tokens generated in one step", buckets=STEP_TOKENS
        )
        self.first_s = family(
            Histogram,
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first token",
            buckets=FIRST_TOKEN_S,
        )
        self.token_s = family(
            Histogram,
            "request_time_per_output_token_seconds",
            "Time between tokens of a request, on average",
            buckets=TOKEN_S,
        )
        self.gap_s = family(
            Histogram,
            "inter_token_latency_seconds",
            "Time between two tokens of a request, for each; draft tokens of one step count as one",
            buckets=TOKEN_S,
        )
        self.request_s = seconds("e2e_request_latency", "Time from a request's arrival to its last token")
        self.queue_s = seconds("request_queue_time", "Time from a request's queueing to its scheduling")
        self.prefill_s = seconds(
            "request_prefill_time", "Time from a request's scheduling to its first token"
        )
        self.decode_s = seconds("request_decode_time", "Time from a request's first token to its last")
        self.inference_s = seconds(
            "request_inference_time", "Time from a request's scheduling to its last token"
        )
        self.request_prompt = family(
            Histogram, "request_prompt_tokens", "Prompt tokens of a request", buckets=REQUEST_TOKENS
        )
        self.request_tokens = family(
            Histogram, "request_generation_tokens", "Tokens generated for a request", buckets=REQUEST_TOKENS
        )

    def of(self, model: str, replica: int = 0) -> EngineStats:
        return EngineStats(self, (model, str(replica)))


class EngineStats:
    """The metrics of a replica's engines, one after another. labels: the model, and vLLM's number of the
    engine, which is the replica's."""

    def __init__(self, metrics: EngineMetrics, labels: tuple[str, str]) -> None:
        self._running, self._waiting = metrics.running.labels(*labels), metrics.waiting.labels(*labels)
        self._kv_usage = metrics.kv_usage.labels(*labels)
        self._queries, self._hits = metrics.queries.labels(*labels), metrics.hits.labels(*labels)
        self._drafts = [
            (family.labels(*labels), name)
            for family, name in (
                (metrics.drafts, "num_drafts"),
                (metrics.draft_tokens, "num_draft_tokens"),
                (metrics.accepted, "num_accepted_tokens"),
            )
        ]
        self._preemptions = metrics.preemptions.labels(*labels)
        self._prompt_tokens, self._tokens = (
            metrics.prompt_tokens.labels(*labels),
            metrics.tokens.labels(*labels),
        )
        self._ended = [metrics.ended.labels(*labels, reason) for reason in REASONS]
        self._step_tokens = metrics.step_tokens.labels(*labels)
        self._first_s, self._token_s = metrics.first_s.labels(*labels), metrics.token_s.labels(*labels)
        self._gap_s = metrics.gap_s.labels(*labels)
        self._request_s, self._queue_s = metrics.request_s.labels(*labels), metrics.queue_s.labels(*labels)
        self._prefill_s, self._decode_s = metrics.prefill_s.labels(*labels), metrics.decode_s.labels(*labels)
        self._inference_s = metrics.inference_s.labels(*labels)
        self._request_prompt = metrics.request_prompt.labels(*labels)
        self._request_tokens = metrics.request_tokens.labels(*labels)
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count no requests and no tokens meanwhile: those of a warm-up are nobody's, and take seconds."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def note(self, request: RequestStats, output: CoreOutput, timestamp: float) -> None:
        """Record an output that is more than tokens: a request's first, its last, or one with events.

        timestamp: the engine's time.monotonic.
        """
        if self._is_paused:
            return
        for event in output.events or ():
            if event["type"] == QUEUED:
                request.queued = event["timestamp"]
            elif event["type"] == SCHEDULED:
                request.scheduled = request.scheduled or event["timestamp"]  # not again when it is resumed
            elif event["type"] == PREEMPTED:
                self._preemptions.inc()
        if not request.first_token:
            request.first_token = timestamp
            if output.prefill_stats is not None:
                request.cached_tokens = output.prefill_stats["num_cached_tokens"]
            observe(self._first_s, time.monotonic() - request.arrived)
            self._prompt_tokens.inc(request.num_prompt_tokens)
        if output.finish_reason is not None:
            self._finish(request, output.finish_reason, timestamp)

    def record(self, outputs: CoreOutputs, num_tokens: int, gaps: Sequence[tuple[float, int]]) -> None:
        """Record the end of a step with this many tokens. gaps: (seconds since the last token,
        number of requests)."""
        stats = outputs.scheduler_stats
        if stats is not None:
            self._running.set(stats["num_running_reqs"])
            self._waiting.set(stats["num_waiting_reqs"] + stats["num_skipped_waiting_reqs"])
            self._kv_usage.set(stats["kv_cache_usage"])
        if self._is_paused:
            return
        if num_tokens:
            self._tokens.inc(num_tokens)
            observe(self._step_tokens, num_tokens)
        for gap_s, count in gaps:
            observe(self._gap_s, gap_s, count)
        if stats is not None:
            cache = stats["prefix_cache_stats"]
            if cache["queries"]:
                self._queries.inc(cache["queries"])
                self._hits.inc(cache["hits"])
            if (drafts := stats.get("spec_decoding_stats")) is not None:
                for counter, name in self._drafts:
                    counter.inc(drafts[name])

    def correct(self, signs: Signs) -> None:
        """Set the gauges to what the engine answered when it was asked.

        vLLM tells the state after a step to only one of the engine's clients: to one that the step brought
        tokens for, else to the first. What another client knows is out of date, until the next step that is
        told to it; after the last step there is none.
        """
        self._running.set(signs.num_running)
        self._waiting.set(signs.num_waiting)
        self._kv_usage.set(signs.kv_usage)

    def stopped(self) -> None:
        """The engine has ended: nothing runs there any more."""
        for gauge in (self._running, self._waiting, self._kv_usage):
            gauge.set(0)

    def _finish(self, request: RequestStats, reason: int, last: float) -> None:
        self._ended[reason].inc()
        observe(self._request_prompt, request.num_prompt_tokens)
        observe(self._request_tokens, request.num_tokens)
        decode_s = last - request.first_token
        if request.num_tokens > 1:
            observe(self._token_s, decode_s / (request.num_tokens - 1))
        observe(self._request_s, time.monotonic() - request.arrived)
        observe(self._decode_s, decode_s)
        if request.scheduled:
            observe(self._queue_s, request.scheduled - request.queued)
            observe(self._prefill_s, request.first_token - request.scheduled)
            observe(self._inference_s, last - request.scheduled)


def observe(histogram: Histogram, value: float, count: int = 1) -> None:
    """Observe a value several times at once, for which prometheus_client has no method; and in half the time
    for one, of which a request has ten."""
    histogram._sum.inc(value * count)
    histogram._buckets[bisect_left(histogram._upper_bounds, value)].inc(count)
