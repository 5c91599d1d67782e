"""Counters of lost engines and of their consequences, by model and replica."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

MOST_RECENT = 100


@dataclass(frozen=True, slots=True)
class Loss:
    """What has happened to a replica of a model. at: seconds since the epoch."""

    at: float
    model: str
    engine: str
    what: str


class LossMetrics:
    """The counters of all models of a registry. recent: the latest losses that this process has counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.recent = deque[Loss](maxlen=MOST_RECENT)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ("model", "engine"), registry=registry)

        self.deaths = counter("verbatim_engine_deaths", "Engines that ended unexpectedly, hangs included")
        self.hangs = counter("verbatim_engine_hangs", "Engines that hung and were killed")
        self.resumed = counter(
            "verbatim_resumed", "Candidates that continued on another engine after theirs was lost"
        )
        self.seconds = counter(
            "verbatim_lost_seconds", "Time from the end of an engine until the next one was ready"
        )

    def of(self, model: str, replica: int = 0, *, is_owner: bool = True) -> Losses:
        """is_owner: whether this process runs the engine, and so counts its deaths."""
        return Losses(self, (model, str(replica)), is_owner=is_owner)


class Losses:
    """The counters of one replica of a model, in one process."""

    def __init__(self, metrics: LossMetrics, labels: tuple[str, str], *, is_owner: bool) -> None:
        self._is_owner = is_owner
        self._labels, self._recent = labels, metrics.recent
        self._deaths, self._hangs = metrics.deaths.labels(*labels), metrics.hangs.labels(*labels)
        self._resumed, self._seconds = metrics.resumed.labels(*labels), metrics.seconds.labels(*labels)

    def died(self, how: str, *, is_hang: bool) -> None:
        if self._is_owner:
            self._deaths.inc()
            self._hangs.inc(is_hang)
            self._note(f"the engine hung and was killed: {how}" if is_hang else how)

    def resumed(self, num_jobs: int) -> None:
        """These jobs continue on another engine."""
        self._resumed.inc(num_jobs)
        if num_jobs:
            self._note(f"{num_jobs} candidate{'s' * (num_jobs > 1)} continued on another engine")

    def recovered(self, lost_s: float) -> None:
        """The next engine is ready."""
        if self._is_owner:
            self._seconds.inc(lost_s)
            if lost_s:
                self._note(f"the next engine is ready after {lost_s:.1f} s")

    def _note(self, what: str) -> None:
        self._recent.append(Loss(time.time(), *self._labels, what))
