"""Metrics of loading and unloading models."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engine.group import Why

SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
STATES = ("loaded", "loading", "asleep", "unloaded", "failed")


class LoadMetrics:
    """The metrics of all models of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.state = Gauge(
            "verbatim_model_state",
            "1 for the state that the model is in, 0 for the others",
            ("model", "state"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.size = Gauge(
            "verbatim_model_bytes",
            "Memory that the model takes when it is loaded, as far as known",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.seconds = Histogram(
            "verbatim_model_load_seconds",
            "Time from the start of a load until the model could answer",
            ("model", "source"),
            buckets=SECONDS,
            registry=registry,
        )
        self.unloads = Counter(
            "verbatim_model_unloads",
            "Times that the model was unloaded: to make room, because it was idle, or because an operator"
            " asked for it",
            ("model", "why"),
            registry=registry,
        )

        self.failures = Counter(
            "verbatim_model_load_failures",
            "Times that the model could not be loaded, so that its requests were refused",
            ("model",),
            registry=registry,
        )

    def tell(self, model: str, state: str, size: int) -> None:
        """Set the current state and size."""
        for one in STATES:
            self.state.labels(model, one).set(one == state)
        self.size.labels(model).set(size)

    def loaded(self, model: str, seconds: float, source: str = "disk") -> None:
        """A load took this long. source: where the weights came from: disk, or memory if the model slept."""
        self.seconds.labels(model, source).observe(seconds)

    def failed(self, model: str) -> None:
        self.failures.labels(model).inc()

    def left(self, model: str, why: Why) -> None:
        self.unloads.labels(model, why).inc()
