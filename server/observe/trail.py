"""When what happened to a candidate, for whoever asked to be told, such as the journal.

It is written down once for each change of where the candidate is, never for a token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """QUEUED: it waits for its turn. LOADING: for its model to be loaded. SENT: to an engine. BEGAN: its
    first output since then has come. LOST: with its engine. RECALLED: from an engine that is replaced, or
    unloaded. PUT_BACK: it is in line again, after one of these or because another one got
    its place. ENDED."""

    QUEUED = "queued"
    LOADING = "loading"
    SENT = "sent"
    BEGAN = "began"
    LOST = "lost"
    RECALLED = "recalled"
    PUT_BACK = "put back"
    ENDED = "ended"


class Scheduled(Protocol):
    """What an engine says of a job. queued, scheduled: when it came, and was taken up, of time.monotonic; 0:
    not known. cached_tokens: of its prompt, in the prefix cache then; None: not known."""

    queued: float
    scheduled: float
    cached_tokens: int | None


@dataclass(slots=True)
class Mark:
    """at: of time.monotonic, seconds. replica: of SENT, where to. engine: of SENT, what that engine says.
    cause: of LOST, how the engine has ended."""

    step: Step
    at: float
    replica: int = 0
    engine: Scheduled | None = None
    cause: str = ""


@dataclass(slots=True)
class Trail:
    """Of one candidate. prompt: the number of its prompt; number: its own among the prompt's candidates.

    token_ids: all that were generated for it. by_engine: whether the engine has ended it, rather than this
    server: for a stop sequence, say, or because its client has left.
    """

    prompt: int
    number: int
    marks: list[Mark] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    by_engine: bool = False

    def mark(self, step: Step, replica: int = 0, cause: str = "") -> None:
        """It is so from now on."""
        self.marks.append(Mark(step, time.monotonic(), replica, None, cause))

    def follow(self, engine: Scheduled) -> None:
        """It was just sent to an engine, which says more of it later."""
        if self.marks:  # a job of a test may never have been queued
            self.marks[-1].engine = engine
