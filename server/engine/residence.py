"""What is known of a model's being in memory, for those who ask for it and for those who look."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import ServiceUnavailable

# After a load that has failed, requests are told why for so long, before one of them begins another.
FAILED_S = 30.0


@dataclass(slots=True)
class Residence:
    """on_demand: it is loaded when it is asked for, else at the start. is_out: its engines do not run, nor
    start. is_refused: an operator has unloaded it, or put it to sleep, and requests do not bring it back.
    size: bytes of the group's memory; 0: not known. used_at: of time.monotonic, when it last had jobs; None:
    never. load_s: how long its last load took; 0: not known. num_before: in the line for memory; None: it is
    not in it. on_wanted: called when a job waits for it.
    """

    on_demand: bool = False
    is_out: bool = False
    is_refused: bool = False
    size: int = 0
    used_at: float | None = None
    load_s: float = 0.0
    num_before: int | None = None
    failure: str = ""  # of its last load
    failed_at: float = -math.inf
    on_wanted: Callable[[], None] = lambda: None

    @property
    def may_stay_out(self) -> bool:
        """Whether its not being loaded is as it should be."""
        return self.on_demand or self.is_refused

    def fail(self, failure: str) -> None:
        """It could not be loaded."""
        self.failure, self.failed_at = failure, time.monotonic()

    def check(self, name: str) -> None:
        """Raise ServiceUnavailable where no request brings it back now."""
        if self.is_refused:
            raise ServiceUnavailable(
                f"model {name} was taken out of memory by an operator, who can load it again",
                retry_after_s=60,
            )
        left_s = self.failed_at + FAILED_S - time.monotonic()
        if self.failure and left_s > 0:
            raise ServiceUnavailable(
                f"model {name} could not be loaded: {self.failure}", retry_after_s=math.ceil(left_s)
            )
