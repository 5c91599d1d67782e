"""How many replicas a model needs, by how long its requests wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from server.config.replication import Replication

# Waits vary from moment to moment: one look proves nothing.
GROW_AFTER_S = 3.0
# A replica that has just started is given time to show its effect.
SETTLE_S = 5.0
# Share of the capacity of one replica less that must be enough, so that the next request does not
# bring it back.
FULL = 0.7


@dataclass(slots=True)
class Scale:
    """The scale of one model. asked: the range, and the allowed wait. places: jobs on a replica at the same
    time. wanted: the number of replicas.

    It grows in proportion to the wait, at most to twice as many at a time, and shrinks by one.
    """

    asked: Replication
    places: int
    wanted: int
    _over_since: float | None = None
    _under_since: float | None = None
    _quiet_until: float = field(default=-math.inf)

    def __post_init__(self) -> None:
        self.wanted = min(max(self.wanted, self.asked.min), self.asked.max)

    def look(self, now: float, wait_s: float, num_jobs: int, num_ready: int) -> int:
        """The number of replicas. wait_s: of the front end where requests wait longest."""
        self._note(now, wait_s, num_jobs)
        if num_ready < self.wanted or now < self._quiet_until:
            self._over_since = None  # replicas that are starting may be enough
        elif self._over_since is not None and now - self._over_since >= GROW_AFTER_S:
            more = math.ceil(self.wanted * (wait_s / self.asked.target_queue_s - 1))
            self._change(now, self.wanted + max(1, min(self.wanted, more)))
        if self._under_since is not None and now - self._under_since >= self.asked.shrink_after_s:
            self._change(now, self.wanted - 1)
        return self.wanted

    def _note(self, now: float, wait_s: float, num_jobs: int) -> None:
        if wait_s <= self.asked.target_queue_s:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        fits = num_jobs <= FULL * self.places * (self.wanted - 1)
        idle = self.wanted > self.asked.min and wait_s <= self.asked.target_queue_s / 2 and fits
        if not idle:
            self._under_since = None
        elif self._under_since is None:
            self._under_since = now

    def _change(self, now: float, wanted: int) -> None:
        self.wanted = min(max(wanted, self.asked.min), self.asked.max)
        self._over_since = self._under_since = None
        self._quiet_until = now + SETTLE_S
