"""Metrics of models that come into memory and leave it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engine.group import Why

SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
STATES = ("loaded", "loading", "asleep", "unloaded", "failed")


class LoadMetrics:
    """Of all models of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.state = Gauge(
            "verbatim_model_state",
            "1 for the state that the model is in",
            ("model", "state"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.size = Gauge(
            "verbatim_model_bytes",
            "Memory that a loaded model takes, as far as known",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.seconds = Histogram(
            "verbatim_model_load_seconds",
            "From the beginning of a load until the model can answer",
            ("model", "source"),
            buckets=SECONDS,
            registry=registry,
        )
        self.unloads = Counter(
            "verbatim_model_unloads",
            "Unloads of a model: to make room, because it was idle, or because an admin asked",
            ("model", "why"),
            registry=registry,
        )

        self.failures = Counter(
            "verbatim_model_load_failures",
            "Loads of a model that failed, so that its requests got an error",
            ("model",),
            registry=registry,
        )

    def tell(self, model: str, state: str, size: int) -> None:
        """It is so at the moment."""
        for one in STATES:
            self.state.labels(model, one).set(one == state)
        self.size.labels(model).set(size)

    def loaded(self, model: str, seconds: float, source: str = "disk") -> None:
        """It took so long. source: where its weights were: disk, or memory, where it has slept."""
        self.seconds.labels(model, source).observe(seconds)

    def failed(self, model: str) -> None:
        self.failures.labels(model).inc()

    def left(self, model: str, why: Why) -> None:
        self.unloads.labels(model, why).inc()
