"""Prometheus metrics: ours by model and key name, and those of vLLM's engines beside them."""

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
    """The registry of this process; or of all that share a folder, each of which can show the sum.

    shared: the folder. Makes every metric of this process one of them.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        if shared is not None:
            os.environ[SHARED_METRICS] = str(shared)
            values.MmapedDict = MetricsFile  # type: ignore[attr-defined]  # looked up there
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
        self.prompt_tokens = Counter("verbatim_prompt_tokens", "Tokens of prompts", by_key, registry=registry)
        self.completion_tokens = Counter(
            "verbatim_completion_tokens",
            "Tokens generated, including candidates that were not returned",
            by_key,
            registry=registry,
        )
        self.seconds = Histogram(
            "verbatim_request_seconds",
            "From the request to the reply's last byte",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.first_seconds = Histogram(
            "verbatim_first_byte_seconds",
            "From the request to the reply's first byte",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.connections_dropped = Counter(
            "verbatim_connections_dropped",
            "Connections refused (full), closed to make room (silent), or with no TLS handshake (handshake)",
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
            "Spans of traces: sent, failed (the collector did not take them), dropped (too many waited)",
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
            "Candidates that wait in the server's queue; others may wait in the engine",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "verbatim_model_ready",
            "1 if the model can answer at once; 0 also if it is unloaded on purpose",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.replica_ready = Gauge(
            "verbatim_replica_ready",
            "1 if that engine of the model can answer",
            ("model", "engine"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.keys_file_ok = Gauge(
            "verbatim_keys_file_ok",
            "0 if the file of API keys, or a line of it, cannot be read; the log says why",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.certificate_ends = Gauge(
            "verbatim_certificate_expiry_timestamp_seconds",
            "When the port's certificate expires, as Unix time; only with TLS",
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
        """The metric of these labels. Looked up here in a tenth of the time that `labels` takes."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child  # type: ignore[return-value]  # labels gives the metric's own type

    def render(self, served: Mapping[str, Collection[int]] | None = None) -> bytes:
        """Everything in Prometheus's text format.

        served: the models that there are, and the numbers of their replicas. Gauges of others are left out:
        what has gone is in no state. None: nothing is left out.
        """
        registry = self._registry
        if self._shared is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=str(self._shared))  # type: ignore[no-untyped-call]
        shown: Any = registry if served is None else Present(registry, served)
        return generate_latest(shown)


class Present:
    """A registry without the gauges of models and replicas that are gone. (prometheus_client cannot remove
    them where several processes share a folder.)"""

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
    """A process has ended that shared the folder: its gauges count no more, its counters do."""
    multiprocess.mark_process_dead(pid, str(shared))  # type: ignore[no-untyped-call]
