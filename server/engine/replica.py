"""One replica as its model's jobs see it: its engine, the jobs on it, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.engine.base import Engine
from server.engine.ticket import Route, Ticket

FORGET_S = 30.0  # seconds after which a measurement is forgotten
RENEWED = 0.2  # weight of each new measurement
ENOUGH = 8  # tokens of a job that are enough to measure its speed


@dataclass(slots=True, eq=False)
class Replica:
    """number: among the model's replicas, from 0. num_places: jobs that its engine works on at the same time.

    engine: None: no engine takes jobs now. placed: the jobs on it by id, in the order in which they were
    sent. unread: those without a token so far. num_unread_tokens: tokens of their prompts that must be
    computed. token_s: seconds between two tokens of a job, measured at measured_at; 0: unknown. has_lost: an
    engine was lost, and the job on the next one, if any, is a suspect. is_leaving: its jobs end there, and it
    gets no new ones while there are other replicas.
    """

    number: int
    num_places: int
    clock: Callable[[], float] = time.monotonic
    engine: Engine | None = None
    placed: dict[str, Ticket] = field(default_factory=dict)
    unread: dict[Ticket, Route] = field(default_factory=dict)
    num_unread_tokens: int = 0
    token_s: float = 0.0
    measured_at: float = 0.0
    has_lost: bool = False
    is_leaving: bool = False

    def place(self, ticket: Ticket, route: Route) -> None:
        """A job is sent there."""
        ticket.route = route
        self.placed[ticket.job.id] = ticket
        if route.num_left:
            self.unread[ticket] = route
            self.num_unread_tokens += route.num_left

    def read(self, ticket: Ticket) -> None:
        """The first token of a job has come."""
        if (route := self.unread.pop(ticket, None)) is not None:
            self.num_unread_tokens -= route.num_left

    def leave(self, ticket: Ticket) -> None:
        """A job has ended, or goes elsewhere."""
        self.read(ticket)
        self.placed.pop(ticket.job.id, None)
        ticket.route = None

    def measure(self, seconds: float, num_tokens: int) -> None:
        """A job took this long for this many tokens after its first."""
        if num_tokens < ENOUGH:
            return
        token_s = seconds / num_tokens
        if self.known_token_s:
            token_s = RENEWED * token_s + (1 - RENEWED) * self.token_s
        self.token_s, self.measured_at = token_s, self.clock()

    @property
    def known_token_s(self) -> float:
        """0: not measured recently, so it should be tried."""
        return self.token_s if self.clock() - self.measured_at < FORGET_S else 0.0

    @property
    def waits_s(self) -> float:
        """How long the first of the jobs without a token has waited for it."""
        first = next(iter(self.unread.values()), None)
        return 0.0 if first is None else self.clock() - first.sent_at
