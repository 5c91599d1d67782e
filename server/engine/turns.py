"""Decides which waiting job goes to the engine next, and which running one makes room for it.

Work is shared between keys by tokens. The length of a job is not known in advance, so the tokens that each
key has had are compared, as the virtual token counters of "Fairness in Serving Large Language Models" (Sheng
et al., OSDI 2024) do: a deficit round robin whose costs are known afterwards. A key that has had little need
not wait until another key's job ends: that job is put back, and continues later (work.py).
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from server.engine.base import Requester
from server.engine.ticket import Ticket
from server.observe.trail import Step

# A job on the engine counts this much beyond its tokens: so keys with the same demand get the same number of
# places. A key must also be this many tokens ahead before it gives up another place.
PLACE = 256
# Cost of a prompt token relative to a generated one: many are computed at once. Hosted services charge about
# this for both.
PROMPT_SHARE = 0.25
# Ended jobs from which waits are predicted; with fewer than FEW, nothing is predicted.
MEASURED, FEW = 64, 8
_PLACE = attrgetter("place")


@dataclass(slots=True, eq=False)
class Account:
    """The jobs of one key. had: tokens by its weight. waiting: the next one first. placed: those on the
    engine, in the order in which they were sent."""

    weight: float
    had: float = 0.0
    waiting: list[Ticket] = field(default_factory=list)
    placed: dict[str, Ticket] = field(default_factory=dict)

    def level(self, more: int = 0) -> float:
        """What the key has had and has, with this many more places. The key with the lowest level is next."""
        return self.had + PLACE * (len(self.placed) + more) / self.weight

    def settle(self) -> None:
        for ticket in self.placed.values():
            self.charge(ticket)

    def charge(self, ticket: Ticket) -> None:
        """Charge the tokens since the last time; with the first token, the prompt too."""
        tokens: float = len(ticket.delivered) - ticket.num_charged
        if tokens and not ticket.num_charged:
            tokens += PROMPT_SHARE * len(ticket.job.prompt_ids)
        ticket.num_charged = len(ticket.delivered)
        self.had += tokens / self.weight


class Turns:
    """num_places: jobs that all engines together work on at the same time.

    While only one key has jobs, twice as many are sent, so that a free place is taken within the same step.
    """

    def __init__(self, num_places: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_places = num_places
        self._clock = clock
        self._accounts: dict[str, Account] = {}  # of keys that have jobs, or have had more than others
        self.num_waiting = self._num_placed = 0
        self._priorities = Counter[int]()  # of the jobs on the engines
        self._ended: deque[float] = deque(maxlen=MEASURED)  # times of ended jobs, while others waited

    def is_waiting(self, ticket: Ticket) -> bool:
        return ticket.job.id not in self._account(ticket).placed

    def add(self, ticket: Ticket) -> None:
        """The job waits. A key that had no waiting jobs has no claim on what others had meanwhile."""
        requester = ticket.job.requester
        account = self._accounts.setdefault(requester.key, Account(requester.weight))
        account.weight = requester.weight  # the latest value
        if not account.waiting and (self.num_waiting or self._num_placed >= self.num_places):
            account.had = max(account.had, self._floor(account))
        insort(account.waiting, ticket, key=_PLACE)
        self.num_waiting += 1
        ticket.mark(Step.QUEUED)

    def discard(self, ticket: Ticket) -> None:
        """The job has ended, wherever it was, or is paused, until it is added again."""
        ticket.mark(Step.PAUSED if ticket.is_paused else Step.ENDED)
        account = self._account(ticket)
        if account.placed.pop(ticket.job.id, None) is None:
            del account.waiting[bisect_left(account.waiting, ticket.place, key=_PLACE)]
            self.num_waiting -= 1
        else:
            self._left(ticket)
            if not ticket.is_paused:
                self._ended.append(self._clock())
        account.charge(ticket)
        if not self.num_waiting:  # then no key has had too much
            self._ended.clear()
            self._accounts = {key: one for key, one in self._accounts.items() if one.waiting or one.placed}
        elif not (account.waiting or account.placed) and account.had <= self._floor(account):
            del self._accounts[ticket.job.requester.key]

    def put_back(self, ticket: Ticket) -> None:
        """The job was on the engine, and waits again, before later jobs of its key."""
        ticket.mark(Step.PUT_BACK)  # after LOST or RECALLED, if one of them is the reason
        account = self._account(ticket)
        account.charge(ticket)
        del account.placed[ticket.job.id]
        insort(account.waiting, ticket, key=_PLACE)
        self.num_waiting += 1
        self._left(ticket)

    def place(self, ticket: Ticket) -> int:
        """The job goes to the engine. Returns its urgency there."""
        account = self._account(ticket)
        account.waiting.remove(ticket)
        # If jobs wait inside the engine, the first job of each key comes before the second of any.
        urgency = (ticket.job.requester.priority << 16) + int(len(account.placed) / account.weight)
        account.placed[ticket.job.id] = ticket
        self.num_waiting -= 1
        self._num_placed += 1
        self._priorities[ticket.place[0]] += 1
        return urgency

    def next(self) -> tuple[Ticket | None, Ticket | None]:
        """(job to put back, job to place then). Both None: there is nothing to do."""
        backlogged = (
            [account for account in self._accounts.values() if account.waiting] if self.num_waiting else []
        )
        if self._num_placed < self.num_places and len(backlogged) < 2:
            return None, backlogged[0].waiting[0] if backlogged else None
        active = [account for account in self._accounts.values() if account.waiting or account.placed]
        if len(active) > 1:
            for account in active:
                account.settle()
            if self._num_placed > self.num_places:  # these were sent ahead while the key was alone
                placed = (account for account in active if account.placed)
                return _newest(max(placed, key=lambda account: account.level())), None
        if not backlogged:
            return None, None
        taker = min(backlogged, key=lambda one: (one.waiting[0].place[0], one.level()))
        ticket = taker.waiting[0]
        if self._num_placed < self.num_places:
            return None, ticket
        victim = self._victim(taker, ticket, active)
        if victim is not None or (len(active) == 1 and self._num_placed < 2 * self.num_places):
            return victim, ticket
        return None, None

    def wait_s(self, requester: Requester) -> float:
        """How long another job of this key would wait for its first place, predicted from how fast jobs end
        at the moment. 0: unknown."""
        account = self._accounts.get(requester.key)
        if account is None or not account.waiting or len(self._ended) < FEW:
            return 0.0
        num_before = bisect_left(account.waiting, (requester.priority + 1, 0), key=_PLACE)
        weights = sum(one.weight for one in self._accounts.values() if one.waiting)
        a_second = len(self._ended) / max(self._clock() - self._ended[0], 1e-3)
        return (num_before + 1) / (a_second * account.weight / weights)

    def clear_s(self, num_jobs: int) -> float:
        """Predicted seconds until this many jobs have ended; 0: unknown."""
        if len(self._ended) < FEW:
            return 0.0
        return num_jobs * (self._clock() - self._ended[0]) / len(self._ended)

    def _floor(self, account: Account) -> float:
        """The least that a key counts as having had if it had no waiting jobs: as much as the lowest of the
        keys with waiting jobs; if there is none, as much as any key with a place."""
        others = [other for other in self._accounts.values() if other is not account]
        for other in others:
            other.settle()
        backlogged = [other.had for other in others if other.waiting]
        if backlogged:
            return min(backlogged)
        return max((other.had for other in others if other.placed), default=0.0)

    def _left(self, ticket: Ticket) -> None:
        """The job has no place any more."""
        self._num_placed -= 1
        self._priorities[ticket.place[0]] -= 1
        if not self._priorities[ticket.place[0]]:
            del self._priorities[ticket.place[0]]

    def _account(self, ticket: Ticket) -> Account:
        return self._accounts[ticket.job.requester.key]

    def _victim(self, taker: Account, ticket: Ticket, active: list[Account]) -> Ticket | None:
        """The job that must make room for this one."""
        priority = ticket.place[0]
        least = max(self._priorities, default=0)
        if least > priority:
            holders = [one for one in active if any(other.place[0] == least for other in one.placed.values())]
            return _newest(max(holders, key=lambda account: account.level()), least)
        # The taker must stay below the giver's level: else the next look would take the place back.
        givers = [
            one
            for one in active
            if one is not taker
            and taker.level(+1) <= one.level(-1)
            and (len(one.placed) > 1 or not taker.placed)
            and any(other.place[0] == priority for other in one.placed.values())
        ]
        if not givers:
            return None
        return _newest(max(givers, key=lambda account: account.level()), priority)


def _newest(account: Account, priority: int | None = None) -> Ticket:
    """The job that was sent last, of that priority if one is given: it has the least to lose."""
    placed = reversed(account.placed.values())
    return next(one for one in placed if priority is None or one.place[0] == priority)
