"""Whether a model is in memory, for requests that need it and for reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import ServiceUnavailable

# After a failed load, requests are refused with the reason for this long, before one of them
# starts another load.
FAILED_S = 30.0


@dataclass(slots=True)
class Residence:
    """on_demand: it is loaded on demand, else at the start. is_out: its engines do not run, nor start.
    is_refused: an operator has unloaded it, or put it to sleep, and requests do not load it. size: bytes of
    the group's memory; 0: unknown. used_at: when it last had jobs (time.monotonic); None: never. load_s:
    duration of its last load; 0: unknown. num_before: models before it in the line for memory; None: it is
    not in line. on_wanted: called when a job waits for it."""

    on_demand: bool = False
    is_out: bool = False
    is_refused: bool = False
    size: int = 0
    used_at: float | None = None
    load_s: float = 0.0
    num_before: int | None = None
    failure: str = ""  # of the last load
    failed_at: float = -math.inf
    on_wanted: Callable[[], None] = lambda: None

    @property
    def may_stay_out(self) -> bool:
        """Whether it may be unloaded now."""
        return self.on_demand or self.is_refused

    def fail(self, failure: str) -> None:
        """It could not be loaded."""
        self.failure, self.failed_at = failure, time.monotonic()

    def check(self, name: str) -> None:
        """Raise ServiceUnavailable if no request can load it now."""
        if self.is_refused:
            raise ServiceUnavailable(
                f"model {name} was taken out of memory by an operator; an operator has to load it again",
                retry_after_s=60,
            )
        left_s = self.failed_at + FAILED_S - time.monotonic()
        if self.failure and left_s > 0:
            raise ServiceUnavailable(
                f"model {name} could not be loaded: {self.failure}", retry_after_s=math.ceil(left_s)
            )
