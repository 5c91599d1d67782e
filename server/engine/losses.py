"""Counters of the engines that were lost, and of what that has cost."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class LossMetrics:
    """Of all models of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ("model",), registry=registry)

        self.deaths = counter(
            "verbatim_engine_deaths", "Engines that have ended by themselves, hangs included"
        )
        self.hangs = counter("verbatim_engine_hangs", "Engines that did nothing any more, and were killed")
        self.resumed = counter("verbatim_resumed", "Candidates that went on after their engine was lost")
        self.seconds = counter("verbatim_lost_seconds", "Time from an engine's end until the next was ready")

    def of(self, model: str, *, is_owner: bool = True) -> Losses:
        """is_owner: whether this process runs the engine, and so counts its deaths."""
        return Losses(self, model, is_owner=is_owner)


class Losses:
    """Of one model, in one process."""

    def __init__(self, metrics: LossMetrics, model: str, *, is_owner: bool) -> None:
        self._is_owner = is_owner
        self._deaths, self._hangs = metrics.deaths.labels(model), metrics.hangs.labels(model)
        self._resumed, self._seconds = metrics.resumed.labels(model), metrics.seconds.labels(model)

    def died(self, *, is_hang: bool) -> None:
        if self._is_owner:
            self._deaths.inc()
            self._hangs.inc(is_hang)

    def recovered(self, lost_s: float, num_resumed: int) -> None:
        self._resumed.inc(num_resumed)
        if self._is_owner:
            self._seconds.inc(lost_s)
