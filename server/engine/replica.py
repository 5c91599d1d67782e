"""One replica as the jobs of its model see it: its engine, what it works on, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.engine.base import Engine
from server.engine.ticket import Route, Ticket

FORGET_S = 30.0  # how long a measure stands that nothing renews
RENEWED = 0.2  # the share of each new measure
ENOUGH = 8  # tokens of a job that tell how fast it was


@dataclass(slots=True, eq=False)
class Replica:
    """number: among the model's, from 0. num_places: jobs that its engine works on at the same time.

    engine: None: there is none that takes jobs now. placed: what it works on, by the jobs' ids, in the order
    of their sending. unread: those of them without a token so far. num_unread_tokens: of their prompts, that
    are to be computed. token_s: between two tokens of a job, as measured at measured_at; 0: not known.
    has_lost: an engine, and what runs on the next one, if anything does, is a suspect. is_leaving: what runs
    on it ends there, and nothing more comes, as long as there are others.
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
        """It is sent there."""
        ticket.route = route
        self.placed[ticket.job.id] = ticket
        if route.num_left:
            self.unread[ticket] = route
            self.num_unread_tokens += route.num_left

    def read(self, ticket: Ticket) -> None:
        """Its first token is here."""
        if (route := self.unread.pop(ticket, None)) is not None:
            self.num_unread_tokens -= route.num_left

    def leave(self, ticket: Ticket) -> None:
        """It has ended, or goes elsewhere."""
        self.read(ticket)
        self.placed.pop(ticket.job.id, None)
        ticket.route = None

    def measure(self, seconds: float, num_tokens: int) -> None:
        """A job took so long for so many tokens after its first."""
        if num_tokens < ENOUGH:
            return
        token_s = seconds / num_tokens
        if self.known_token_s:
            token_s = RENEWED * token_s + (1 - RENEWED) * self.token_s
        self.token_s, self.measured_at = token_s, self.clock()

    @property
    def known_token_s(self) -> float:
        """0: nothing was measured lately, and it is to be tried."""
        return self.token_s if self.clock() - self.measured_at < FORGET_S else 0.0

    @property
    def waits_s(self) -> float:
        """How long the first of those that have no token has waited for it."""
        first = next(iter(self.unread.values()), None)
        return 0.0 if first is None else self.clock() - first.sent_at
