"""Other ways to choose a replica, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.replica import Replica
from server.engine.router import Router
from server.engine.ticket import Route, Ticket


class RoundRobin(Router):
    """One replica after the other."""

    _next = 0

    def place(self, ticket: Ticket, replicas: Sequence[Replica], num_senders: int = 1) -> Replica:
        self._next += 1
        chosen = self.choice(replicas, self._next % len(replicas))
        chosen.place(ticket, Route(chosen.number))
        return chosen

    def choice(self, replicas: Sequence[Replica], turn: int) -> Replica:
        return replicas[turn]


class LeastLoaded(RoundRobin):
    """The replica with the fewest jobs; of several, the next one."""

    def choice(self, replicas: Sequence[Replica], turn: int) -> Replica:
        return min([*replicas[turn:], *replicas[:turn]], key=lambda one: len(one.placed))
