"""Whose turn it is: which of the jobs that wait goes to the engine next, and which one makes room for it.

Work is shared between keys by tokens. How long a job will be is not known before, so what is compared is what
each key has had, as the virtual token counters of "Fairness in Serving Large Language Models" (Sheng et al.,
OSDI 2024) do: a deficit round robin whose costs are told afterwards. A key that has had little need not wait
until another's job ends: that job is put back, and goes on later where it was (work.py).
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

# What a job on the engine counts beyond the tokens it has had: so keys that want the same get as many places.
# It is also how many tokens a key has to be ahead before it gives another place up.
PLACE = 256
# A prompt's token beside a generated one: many are computed at once. What hosted services charge for both.
PROMPT_SHARE = 0.25
# Jobs that have ended, by which the wait of others is foretold; from fewer than FEW nothing is.
MEASURED, FEW = 64, 8
_PLACE = attrgetter("place")


@dataclass(slots=True, eq=False)
class Account:
    """One key's jobs. had: tokens by its weight. waiting: the next one first. placed: on the engine, in the
    order of their sending."""

    weight: float
    had: float = 0.0
    waiting: list[Ticket] = field(default_factory=list)
    placed: dict[str, Ticket] = field(default_factory=dict)

    def level(self, more: int = 0) -> float:
        """What it has had and has, with so many more places; the lowest level is next."""
        return self.had + PLACE * (len(self.placed) + more) / self.weight

    def settle(self) -> None:
        for ticket in self.placed.values():
            self.charge(ticket)

    def charge(self, ticket: Ticket) -> None:
        """The tokens that have come since the last time, with the first of them the prompt's."""
        tokens: float = len(ticket.delivered) - ticket.num_charged
        if tokens and not ticket.num_charged:
            tokens += PROMPT_SHARE * len(ticket.job.prompt_ids)
        ticket.num_charged = len(ticket.delivered)
        self.had += tokens / self.weight


class Turns:
    """num_places: jobs that the engines work on at the same time, all of them together.

    As long as only one key has jobs, as many again are sent ahead, so that a place is taken within the step
    in which it becomes free.
    """

    def __init__(self, num_places: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_places = num_places
        self._clock = clock
        self._accounts: dict[str, Account] = {}  # of keys that have jobs, or have had more than others
        self.num_waiting = self._num_placed = 0
        self._priorities = Counter[int]()  # of those that have a place
        self._ended: deque[float] = deque(maxlen=MEASURED)  # when, while others waited

    def is_waiting(self, ticket: Ticket) -> bool:
        return ticket.job.id not in self._account(ticket).placed

    def add(self, ticket: Ticket) -> None:
        """It waits. A key that did not has no claim on what others had meanwhile."""
        requester = ticket.job.requester
        account = self._accounts.setdefault(requester.key, Account(requester.weight))
        account.weight = requester.weight  # its latest
        if not account.waiting and (self.num_waiting or self._num_placed >= self.num_places):
            account.had = max(account.had, self._floor(account))
        insort(account.waiting, ticket, key=_PLACE)
        self.num_waiting += 1
        ticket.mark(Step.QUEUED)

    def discard(self, ticket: Ticket) -> None:
        """It has ended, wherever it was."""
        ticket.mark(Step.ENDED)
        account = self._account(ticket)
        if account.placed.pop(ticket.job.id, None) is None:
            del account.waiting[bisect_left(account.waiting, ticket.place, key=_PLACE)]
            self.num_waiting -= 1
        else:
            self._left(ticket)
            self._ended.append(self._clock())
        account.charge(ticket)
        if not self.num_waiting:  # nobody has had too much
            self._ended.clear()
            self._accounts = {key: one for key, one in self._accounts.items() if one.waiting or one.placed}
        elif not (account.waiting or account.placed) and account.had <= self._floor(account):
            del self._accounts[ticket.job.requester.key]

    def put_back(self, ticket: Ticket) -> None:
        """It was on the engine, and waits again, before those of its key that came later."""
        ticket.mark(Step.PUT_BACK)  # after LOST or RECALLED, where that is why
        account = self._account(ticket)
        account.charge(ticket)
        del account.placed[ticket.job.id]
        insort(account.waiting, ticket, key=_PLACE)
        self.num_waiting += 1
        self._left(ticket)

    def place(self, ticket: Ticket) -> int:
        """It goes to the engine. Returns its urgency there."""
        account = self._account(ticket)
        account.waiting.remove(ticket)
        # Where the engine itself has jobs wait, the first of each key are before the second of any.
        urgency = (ticket.job.requester.priority << 16) + int(len(account.placed) / account.weight)
        account.placed[ticket.job.id] = ticket
        self.num_waiting -= 1
        self._num_placed += 1
        self._priorities[ticket.place[0]] += 1
        return urgency

    def next(self) -> tuple[Ticket | None, Ticket | None]:
        """What to put back, and what to place then. Both None: everything is as it should be."""
        backlogged = (
            [account for account in self._accounts.values() if account.waiting] if self.num_waiting else []
        )
        if self._num_placed < self.num_places and len(backlogged) < 2:
            return None, backlogged[0].waiting[0] if backlogged else None
        active = [account for account in self._accounts.values() if account.waiting or account.placed]
        if len(active) > 1:
            for account in active:
                account.settle()
            if self._num_placed > self.num_places:  # sent ahead while the key was alone
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
        """How long one more job of this key would wait for its first place, from how fast jobs end at the
        moment. 0 where that is not known."""
        account = self._accounts.get(requester.key)
        if account is None or not account.waiting or len(self._ended) < FEW:
            return 0.0
        num_before = bisect_left(account.waiting, (requester.priority + 1, 0), key=_PLACE)
        weights = sum(one.weight for one in self._accounts.values() if one.waiting)
        a_second = len(self._ended) / max(self._clock() - self._ended[0], 1e-3)
        return (num_before + 1) / (a_second * account.weight / weights)

    def clear_s(self, num_jobs: int) -> float:
        """How long until so many have ended; 0 where that is not known."""
        if len(self._ended) < FEW:
            return 0.0
        return num_jobs * (self._clock() - self._ended[0]) / len(self._ended)

    def _floor(self, account: Account) -> float:
        """What a key has at least had that has waited for nothing so far: as much as the one of those that
        wait that has had least; where none waits, as much as any that has a place."""
        others = [other for other in self._accounts.values() if other is not account]
        for other in others:
            other.settle()
        backlogged = [other.had for other in others if other.waiting]
        if backlogged:
            return min(backlogged)
        return max((other.had for other in others if other.placed), default=0.0)

    def _left(self, ticket: Ticket) -> None:
        """It has a place no more."""
        self._num_placed -= 1
        self._priorities[ticket.place[0]] -= 1
        if not self._priorities[ticket.place[0]]:
            del self._priorities[ticket.place[0]]

    def _account(self, ticket: Ticket) -> Account:
        return self._accounts[ticket.job.requester.key]

    def _victim(self, taker: Account, ticket: Ticket, active: list[Account]) -> Ticket | None:
        """Which job has to make room for that one."""
        priority = ticket.place[0]
        least = max(self._priorities, default=0)
        if least > priority:
            holders = [one for one in active if any(other.place[0] == least for other in one.placed.values())]
            return _newest(max(holders, key=lambda account: account.level()), least)
        # Not to the level of the one that gives: else the next look would take it back.
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
    """Of those of that priority, if one is given, the last that was sent: it has the least to lose."""
    placed = reversed(account.placed.values())
    return next(one for one in placed if priority is None or one.place[0] == priority)
