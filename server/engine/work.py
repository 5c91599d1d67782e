"""The jobs of one model from their submission to their end, whichever engines work on them.

An engine holds nothing of a job that could not be sent again: its prompt, what was generated so far, its
seed. So a job whose engine is lost waits here for the next one, which goes on where the last has stopped; the
sink notices nothing but a pause. One that makes room for another key's waits in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import time

from server.engine.base import Engine, Job, Sink, stopped
from server.engine.ticket import Ticket
from server.engine.trials import Trials
from server.engine.turns import Turns
from server.errors import EngineDeathsError, RequestFailure, ServiceUnavailable

log = logging.getLogger(__name__)

# Engines that a job may lose in a row, without a token between, before it is suspected of killing them.
SUSPICIOUS = 2
# And in all, before it is suspected until its end: one may kill each engine a few tokens later.
MANY_DEATHS = 10
# How often keys are compared while jobs wait and none ends.
LOOK_S = 0.5
# How often another process is asked whether its trials are over.
TRIALS_S = 0.05


class Work:
    """resume: whether jobs outlive their engine. resume_timeout_s: how long one that has lost its engine
    waits for the next. turns: whose turn it is.

    A job that was running when two engines in a row died is sent to the third one alone, and the others
    follow once it has generated a token. If that one dies as well, it fails; no other job ever does.
    """

    def __init__(
        self, *, resume: bool = True, resume_timeout_s: float = 120.0, turns: Turns | None = None
    ) -> None:
        self.resume = resume
        self.resume_timeout_s = resume_timeout_s
        self.turns = turns or Turns()
        self.trials = Trials()  # of other processes on the same engine
        self._tickets: dict[str, Ticket] = {}  # by the job's id; in the order of their submission
        self._num_tickets = 0  # ever
        self._engine: Engine | None = None
        self._has_lost = False  # one, and nothing but suspects was sent to the next
        self._lost: list[Ticket] = []  # those with waits_since, and perhaps some that have ended
        self._suspects: dict[str, Ticket] = {}
        self._on_trial: Ticket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Handle | None = None  # at whose turn it is, when nothing else happens

    def __len__(self) -> int:
        """Jobs that have neither ended nor been aborted."""
        return len(self._tickets)

    @property
    def num_resuming(self) -> int:
        """Jobs that have lost their engine, and wait for another."""
        return sum(ticket.waits_since is not None for ticket in self._tickets.values())

    def is_paused(self, job_id: str) -> bool:
        """Whether it has lost its engine, or its place there, and waits."""
        ticket = self._tickets.get(job_id)
        if ticket is None or not self.turns.is_waiting(ticket):
            return False
        return bool(ticket.delivered) or ticket.waits_since is not None

    def submit(self, job: Job, sink: Sink) -> None:
        """As an engine's. Without one the job waits."""
        self._num_tickets += 1
        ticket = Ticket(self._num_tickets, job, sink, self._forget, self._acquit)
        self._tickets[job.id] = ticket
        self.turns.add(ticket)
        if self._engine is None:
            ticket.waits_since = time.monotonic()
            self._lost.append(ticket)
            self._watch()
        self._send_waiting()

    def abort(self, job_id: str) -> None:
        """As an engine's."""
        ticket = self._tickets.get(job_id)
        if ticket is None:
            return
        if self._engine is not None and not self.turns.is_waiting(ticket):
            self._engine.abort(ticket.engine_id)
        self._forget(ticket)

    def begin(self, engine: Engine) -> int:
        """An engine is ready. Returns how many jobs go on there that have lost another one."""
        self._engine = engine
        num_resuming = self.num_resuming
        for ticket in self._lost:
            ticket.waits_since = None  # from now on for its turn
        self._lost.clear()
        self._send_waiting()
        return num_resuming

    def recall(self) -> None:
        """Take back what the engine works on, so that another one goes on with it; nobody is to blame."""
        if self._engine is None:
            return
        engine, self._engine, self._on_trial = self._engine, None, None
        now = time.monotonic()
        for ticket in self._tickets.values():
            if not self.turns.is_waiting(ticket):
                engine.abort(ticket.engine_id)
            ticket.waits_since = ticket.waits_since or now
        self._lost = [*self._tickets.values()]
        self.turns.put_all_back()
        self._watch()

    def lose(self) -> None:
        """The engine is lost, and with it what it was working on."""
        if self._engine is None:
            return
        self._engine, accused, self._on_trial = None, self._on_trial, None
        self._has_lost = True
        now = time.monotonic()
        for ticket in self._tickets.values():
            if not self.turns.is_waiting(ticket):
                ticket.num_deaths += 1
                ticket.all_deaths += 1
                if ticket.num_deaths >= SUSPICIOUS or ticket.all_deaths >= MANY_DEATHS:
                    self._suspects[ticket.job.id] = ticket
            ticket.waits_since = ticket.waits_since or now
        self._lost = [*self._tickets.values()]
        self.turns.put_all_back()
        self.trials.note(has_suspects=bool(self._suspects))
        if not self.resume:
            self.fail(stopped())
        if accused is not None and self._tickets.get(accused.job.id) is accused:
            self._condemn(accused)
        self._watch()

    def fail(self, failure: RequestFailure) -> None:
        """No engine will work on them any more."""
        for ticket in [*self._tickets.values()]:
            self._fail(ticket, failure)

    def _forget(self, ticket: Ticket) -> None:
        """It has ended."""
        del self._tickets[ticket.job.id]
        self.turns.discard(ticket)
        self._clear(ticket)
        if self.turns.num_waiting:
            self._send_soon()

    def _acquit(self, ticket: Ticket) -> None:
        """It has a token since it lost an engine."""
        if ticket.all_deaths < MANY_DEATHS:
            self._clear(ticket)

    def _clear(self, ticket: Ticket) -> None:
        """Of suspicion."""
        if self._suspects.pop(ticket.job.id, None) is not None:
            self.trials.note(has_suspects=bool(self._suspects))
        if ticket is self._on_trial:
            self._on_trial = None
            self._send_soon()

    def _send_soon(self, delay_s: float = 0.0) -> None:
        """Not from within the handing out of a step: what is sent now is none of that."""
        if self._look is not None:
            self._look.cancel()
        loop = asyncio.get_running_loop()
        look = self._send_waiting
        self._look = loop.call_later(delay_s, look) if delay_s else loop.call_soon(look)

    def _send_waiting(self) -> None:
        if self._engine is None or self._on_trial is not None:
            return
        if self._has_lost and not self.trials.is_next():
            self._send_soon(TRIALS_S)
            return
        if self._suspects:
            for ticket in self._tickets.values():
                if not self.turns.is_waiting(ticket):  # who was tried before, and goes on later
                    self._engine.abort(ticket.engine_id)
                    self.turns.put_back(ticket)
            self._on_trial = next(iter(self._suspects.values()))
            self._send(self._on_trial)
            return
        self._has_lost = False
        while (turn := self.turns.next()) != (None, None):
            gives_way, takes_place = turn
            if gives_way is not None:
                self._engine.abort(gives_way.engine_id)
                self.turns.put_back(gives_way)
            if takes_place is not None:
                self._send(takes_place)
        if self.turns.num_waiting:
            self._send_soon(LOOK_S)

    def _send(self, ticket: Ticket) -> None:
        assert self._engine is not None
        ticket.waits_since = None
        self._engine.submit(ticket.rest(self.turns.place(ticket)), ticket.take)

    def _condemn(self, ticket: Ticket) -> None:
        log.error(
            "request %s: %d engines died while they worked on it, the last one on it alone; it is given up",
            ticket.job.request_id,
            ticket.all_deaths,
        )
        self._fail(ticket, EngineDeathsError(ticket.job.request_id, ticket.all_deaths))

    def _fail(self, ticket: Ticket, failure: RequestFailure) -> None:
        if self._tickets.get(ticket.job.id) is not ticket:  # ended with another of its request
            return
        self.abort(ticket.job.id)
        ticket.sink(failure)

    def _watch(self) -> None:
        """See to it that nobody waits for too long."""
        if self._timer is not None:
            self._timer.cancel()
        self._lost = [one for one in self._lost if self._tickets.get(one.job.id) is one]
        since = [ticket.waits_since for ticket in self._lost if ticket.waits_since is not None]
        if since:
            delay_s = min(since) + self.resume_timeout_s - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._time_is_up)

    def _time_is_up(self) -> None:
        now = time.monotonic()
        for ticket in [*self._lost]:
            if ticket.waits_since is not None and now >= ticket.waits_since + self.resume_timeout_s:
                self._fail(ticket, _took_too_long(self.resume_timeout_s))
        self._watch()


def _took_too_long(seconds: float) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"the engine has stopped, and no other one was ready within {seconds:g} s (resume_timeout_s)",
        retry_after_s=30,
    )
