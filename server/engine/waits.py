"""Jobs that wait for an engine, with their deadlines: for one that is being restarted, or one that is being
loaded for them; and calls that wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

from server.engine.base import not_loaded, took_too_long
from server.engine.ticket import Ticket
from server.errors import RequestFailure
from server.observe.trail import Step


class Soon:
    """Calls a function once, soon, but not at once: the outputs of a step may just be passed on. The latest
    request decides when."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._next: asyncio.Handle | None = None

    def __call__(self, delay_s: float = 0.0) -> None:
        if self._next is not None:
            self._next.cancel()
        loop = asyncio.get_running_loop()
        soon = loop.call_later(delay_s, self._function) if delay_s else loop.call_soon(self._function)
        self._next = soon


class Waits:
    """resume_timeout_s: for the next engine. load_timeout_s: for the model to be loaded, if is_for_load;
    math.inf: for ever. fail: called for each job whose time is up."""

    def __init__(self, fail: Callable[[Ticket, RequestFailure], None], resume_timeout_s: float) -> None:
        self.resume_timeout_s = resume_timeout_s
        self.load_timeout_s = math.inf
        self.is_for_load = False
        self._fail = fail
        self._tickets: dict[Ticket, None] = {}  # the first of them has waited longest
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit_s(self) -> float:
        return self.load_timeout_s if self.is_for_load else self.resume_timeout_s

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, tickets: Iterable[Ticket]) -> None:
        """These jobs wait from now on, unless they do already, or are paused."""
        now = time.monotonic()
        for ticket in tickets:
            if ticket.waits_since is None and not ticket.is_paused:
                ticket.waits_since = now
                self._tickets[ticket] = None
                if self.is_for_load:
                    ticket.mark(Step.LOADING)
        self._watch()

    def discard(self, ticket: Ticket) -> None:
        """The job does not wait, or no longer."""
        ticket.waits_since = None
        self._tickets.pop(ticket, None)

    def clear(self) -> None:
        """An engine is ready: the jobs now wait for their turn only."""
        for ticket in [*self._tickets]:
            self.discard(ticket)

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        first = next(iter(self._tickets), None)
        if first is None or math.isinf(self.limit_s):
            return
        assert first.waits_since is not None, "waits"
        delay_s = first.waits_since + self.limit_s - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._time_is_up)

    def _time_is_up(self) -> None:
        now = time.monotonic()
        failure = not_loaded if self.is_for_load else took_too_long
        for ticket in [*self._tickets]:
            if ticket.waits_since is not None and now >= ticket.waits_since + self.limit_s:
                self._fail(ticket, failure(self.limit_s))
        self._watch()
