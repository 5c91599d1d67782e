"""A request that is traced, on its way."""

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
    """A completion whose work has begun: when, of time.monotonic."""

    at: float
    generation: Generation
    how: StreamParams
    reply_id: str


@dataclass(slots=True)
class Following:
    """route: its path as the server knows it, without what is different in each request. trails: of its
    candidates. admitted: None: its work has not begun, or it is no completion."""

    trace: Trace
    route: str
    trails: list[Trail] = field(default_factory=list)
    admitted: Admitted | None = None

    def admit(self, generation: Generation, how: StreamParams, reply_id: str) -> None:
        """Its work begins."""
        self.admitted = Admitted(time.monotonic(), generation, how, reply_id)
        generation.trails = self.trails
