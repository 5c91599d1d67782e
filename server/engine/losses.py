"""Counters of the engines that were lost, and of what that has cost, by model and replica."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class LossMetrics:
    """Of all models of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ("model", "engine"), registry=registry)

        self.deaths = counter(
            "verbatim_engine_deaths", "Engines that died, including those killed because they hung"
        )
        self.hangs = counter("verbatim_engine_hangs", "Engines that did nothing any more, and were killed")
        self.resumed = counter("verbatim_resumed", "Candidates that continued after their engine was lost")
        self.seconds = counter("verbatim_lost_seconds", "Time from an engine's end until the next was ready")

    def of(self, model: str, replica: int = 0, *, is_owner: bool = True) -> Losses:
        """is_owner: whether this process runs the engine, and so counts its deaths."""
        return Losses(self, (model, str(replica)), is_owner=is_owner)


class Losses:
    """Of one replica of a model, in one process."""

    def __init__(self, metrics: LossMetrics, labels: tuple[str, str], *, is_owner: bool) -> None:
        self._is_owner = is_owner
        self._deaths, self._hangs = metrics.deaths.labels(*labels), metrics.hangs.labels(*labels)
        self._resumed, self._seconds = metrics.resumed.labels(*labels), metrics.seconds.labels(*labels)

    def died(self, *, is_hang: bool) -> None:
        if self._is_owner:
            self._deaths.inc()
            self._hangs.inc(is_hang)

    def resumed(self, num_jobs: int) -> None:
        """They go on, on another engine."""
        self._resumed.inc(num_jobs)

    def recovered(self, lost_s: float) -> None:
        """The next engine is ready."""
        if self._is_owner:
            self._seconds.inc(lost_s)
