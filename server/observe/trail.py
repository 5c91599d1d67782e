"""Records when a candidate's state changes, for the journal and traces.

It records one mark for each change, never for a token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """QUEUED: waits for its turn. LOADING: waits for its model to be loaded. SENT: to an engine. BEGAN: its
    first output since then has come. LOST: with its engine. RECALLED: from an engine that is replaced or
    unloaded. PUT_BACK: waits in line again, after one of these or because another candidate got
    its place. PAUSED: taken from its engine while better candidates of best_of run. ENDED."""

    QUEUED = "queued"
    LOADING = "loading"
    SENT = "sent"
    BEGAN = "began"
    LOST = "lost"
    RECALLED = "recalled"
    PUT_BACK = "put back"
    PAUSED = "paused"
    ENDED = "ended"


class Scheduled(Protocol):
    """An engine's report about a job. queued, scheduled: time.monotonic; 0: unknown. cached_tokens: prompt
    tokens in the prefix cache; None: unknown."""

    queued: float
    scheduled: float
    cached_tokens: int | None


@dataclass(slots=True)
class Mark:
    """at: time.monotonic, seconds. replica: of SENT: to which. engine: of SENT: that engine's report. cause:
    of LOST: how the engine ended."""

    step: Step
    at: float
    replica: int = 0
    engine: Scheduled | None = None
    cause: str = ""


@dataclass(slots=True)
class Trail:
    """The trail of one candidate. prompt: the number of its prompt; number: its own among
    the prompt's candidates.

    token_ids: all that were generated for it. by_engine: whether the engine ended it, rather than this
    server, as for a stop sequence or a client that left.
    """

    prompt: int
    number: int
    marks: list[Mark] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    by_engine: bool = False

    def mark(self, step: Step, replica: int = 0, cause: str = "") -> None:
        """Record this step now."""
        self.marks.append(Mark(step, time.monotonic(), replica, None, cause))

    def follow(self, engine: Scheduled) -> None:
        """The candidate was just sent to an engine, which reports more about it later."""
        if self.marks:  # in tests, a job may not have been queued
            self.marks[-1].engine = engine
