"""What is noted about a traced request while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.contract.params import StreamParams
from server.generation.candidates import Generation
from server.observe.trail import Trail

if TYPE_CHECKING:
    from server.observe.tracing import Trace


@dataclass(frozen=True, slots=True)
class Admitted:
    """A completion whose work has begun. Times are of time.monotonic."""

    at: float
    generation: Generation
    how: StreamParams
    reply_id: str


@dataclass(slots=True)
class Following:
    """A traced request. route: its path without variable parts. trails: those of its candidates. admitted:
    None if its work has not begun, or it is not a completion."""

    trace: Trace
    route: str
    trails: list[Trail] = field(default_factory=list)
    admitted: Admitted | None = None

    def admit(self, generation: Generation, how: StreamParams, reply_id: str) -> None:
        """Note that the work begins."""
        self.admitted = Admitted(time.monotonic(), generation, how, reply_id)
        generation.trails = self.trails
