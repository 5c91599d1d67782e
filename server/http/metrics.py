"""Prometheus metrics: ours by model and key name, and those of vLLM's engines."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.metrics_core import Metric

from server.engine.loads import LoadMetrics
from server.engine.losses import LossMetrics
from server.engine.vllm.processes import SHARED_METRICS
from server.engine.vllm.stats import EngineMetrics
from server.http.metricsfile import MetricsFile
from server.journal.counts import JournalMetrics

M = TypeVar("M", Counter, Gauge, Histogram)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of this process, or of all processes that share a folder; each of them can show the sum.

    shared: the folder. It makes every metric of this process a shared one.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        if shared is not None:
            os.environ[SHARED_METRICS] = str(shared)
            # Prometheus_client looks it up there
            values.MmapedDict = MetricsFile  # type: ignore[attr-defined]
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._children: dict[tuple[object, ...], object] = {}
        self._registry = registry = CollectorRegistry()
        self.engines = EngineMetrics(registry)
        self.losses = LossMetrics(registry)
        self.loads = LoadMetrics(registry)
        self.journal = JournalMetrics(registry)
        by_key = ("model", "key")
        self.requests = Counter(
            "verbatim_requests", "Completion requests, by HTTP status", (*by_key, "status"), registry=registry
        )
        self.errors = Counter(
            "verbatim_errors", "Requests that failed, by reason", (*by_key, "reason"), registry=registry
        )
        self.prompt_tokens = Counter("verbatim_prompt_tokens", "Prompt tokens", by_key, registry=registry)
        self.completion_tokens = Counter(
            "verbatim_completion_tokens",
            "Generated tokens, including those of candidates that were not returned",
            by_key,
            registry=registry,
        )
        self.seconds = Histogram(
            "verbatim_request_seconds",
            "Time from a request to the last byte of its reply",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.first_seconds = Histogram(
            "verbatim_first_byte_seconds",
            "Time from a request to the first byte of its reply",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.connections_dropped = Counter(
            "verbatim_connections_dropped",
            "Connections that were refused for lack of room (full), closed to make room (silent), or failed"
            " in the TLS handshake",
            ("reason",),
            registry=registry,
        )
        self.loop_stalls = Counter(
            "verbatim_loop_stalls",
            "Times that a process's event loop stalled for more than five seconds",
            registry=registry,
        )
        self.spans = Counter(
            "verbatim_spans",
            "Spans of traces: sent, failed (the collector did not take them), dropped (too many were"
            " waiting)",
            ("result",),
            registry=registry,
        )
        self.in_flight = Gauge(
            "verbatim_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.waiting = Gauge(
            "verbatim_candidates_waiting",
            "Candidates that wait in the server for their turn, besides those that wait in the engine",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "verbatim_model_ready",
            "1 when the model can answer at once; 0 also when it is unloaded on purpose",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.replica_ready = Gauge(
            "verbatim_replica_ready",
            "1 when this engine of the model can answer",
            ("model", "engine"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.keys_file_ok = Gauge(
            "verbatim_keys_file_ok",
            "0 when the file of API keys cannot be read completely; the log says why",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.certificate_ends = Gauge(
            "verbatim_certificate_expiry_timestamp_seconds",
            "Expiry of the port's certificate, as Unix time; only with TLS",
            ("file",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.restarts = Gauge(
            "verbatim_engine_restarts",
            "Times the engine was restarted",
            ("model",),
            registry=registry,
            multiprocess_mode="livemax",
        )

    def of(self, metric: M, *labels: str) -> M:
        """metric.labels(*labels), in a tenth of the time."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child  # type: ignore[return-value]  # labels returns the metric's own type

    def render(self, served: Mapping[str, Collection[int]] | None = None) -> bytes:
        """All metrics in Prometheus's text format.

        served: model -> numbers of its replicas. Gauges of models and replicas that are gone are left out.
        None: nothing is left out.
        """
        registry = self._registry
        if self._shared is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=str(self._shared))  # type: ignore[no-untyped-call]
        shown: Any = registry if served is None else Present(registry, served)
        return generate_latest(shown)


class Present:
    """A registry without the gauges of models and replicas that are gone. (prometheus_client cannot remove
    them if several processes share a folder.)"""

    def __init__(self, registry: CollectorRegistry, served: Mapping[str, Collection[int]]) -> None:
        self._registry = registry
        self._served = served

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.type == "gauge":
                metric.samples = [sample for sample in metric.samples if self._is_there(sample.labels)]
            yield metric

    def _is_there(self, labels: Mapping[str, str]) -> bool:
        model = labels.get("model", labels.get("model_name"))
        if model is None:
            return True
        replicas, engine = self._served.get(model), labels.get("engine")
        return replicas is not None and (engine is None or int(engine) in replicas)


def forget(shared: Path, pid: int) -> None:
    """A process that shared the folder has ended: its gauges count no more, its counters still do."""
    multiprocess.mark_process_dead(pid, str(shared))  # type: ignore[no-untyped-call]
