"""The jobs of one model from their submission to their end, whichever engines work on them.

An engine holds nothing of a job that could not be sent again: its prompt, what was generated so far, its
seed. So a job whose engine is lost waits here for the next one, which goes on where the last has stopped; the
sink notices nothing but a pause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from server.engine.base import Engine, EngineOutput, Job, Sink, stopped
from server.errors import EngineDeathsError, RequestFailure, ServiceUnavailable

log = logging.getLogger(__name__)

# Engines that a job may lose in a row, without a token between, before it is suspected of killing them.
SUSPICIOUS = 2
# And in all: one that kills each engine a few tokens later would never be suspected.
MOST_DEATHS = 20


@dataclass(slots=True, eq=False)
class Ticket:
    """One job on its way. delivered: ids that its sink has.

    engine_id: the job's name on the engine that works on it. num_lives: engines it was sent to. num_deaths:
    engines lost in a row, without a token between; all_deaths: in all. waits_since: when it lost the last
    one, of time.monotonic, while it waits for another.
    """

    work: Work
    job: Job
    sink: Sink
    delivered: list[int] = field(default_factory=list)
    engine_id: str = ""
    num_lives: int = 0
    num_deaths: int = 0
    all_deaths: int = 0
    waits_since: float | None = None

    def take(self, output: EngineOutput | RequestFailure) -> None:
        """The sink of its engine."""
        if isinstance(output, EngineOutput):
            self.delivered += output.token_ids
            if self.num_deaths:
                self.work.goes_on(self)
            if output.finish_reason is not None:
                self.work.forget(self)
        else:
            self.work.forget(self)
        self.sink(output)

    def rest(self) -> Job:
        """What is still to be done, under a name that no output of an earlier engine has."""
        job, num = self.job, len(self.delivered)
        self.engine_id = f"{job.id}.{self.num_lives}" if self.num_lives else job.id
        self.num_lives += 1
        if not num:
            return replace(job, id=self.engine_id)
        return replace(
            job,
            id=self.engine_id,
            prompt_ids=[*job.prompt_ids, *self.delivered],
            params=replace(job.params, min_tokens=max(0, job.params.min_tokens - num)),
            max_tokens=job.max_tokens - num,
            prompt_logprobs=False,  # they came with the first token
            num_output_before=num,
        )


class Work:
    """resume: whether jobs outlive their engine. resume_timeout_s: how long one that has lost its engine
    waits for the next.

    A job that was running when two engines in a row died is sent to the third one alone, and the others
    follow once it has generated a token. If that one dies as well, it fails.
    """

    def __init__(self, *, resume: bool = True, resume_timeout_s: float = 120.0) -> None:
        self.resume = resume
        self.resume_timeout_s = resume_timeout_s
        self._tickets: dict[str, Ticket] = {}  # by the job's id; in the order of their submission
        self._waiting: dict[str, Ticket] = {}  # of them, those that no engine works on
        self._engine: Engine | None = None
        self._on_trial: Ticket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Jobs that have neither ended nor been aborted."""
        return len(self._tickets)

    @property
    def num_resuming(self) -> int:
        """Jobs that have lost their engine, and wait for another."""
        return sum(ticket.waits_since is not None for ticket in self._waiting.values())

    def is_resuming(self, job_id: str) -> bool:
        ticket = self._waiting.get(job_id)
        return ticket is not None and ticket.waits_since is not None

    def submit(self, job: Job, sink: Sink) -> None:
        """As an engine's. Without one the job waits."""
        ticket = self._tickets[job.id] = Ticket(self, job, sink)
        if self._engine is not None and self._on_trial is None:
            self._send(ticket)
            return
        self._waiting[job.id] = ticket
        if self._engine is None:
            ticket.waits_since = time.monotonic()
            self._watch()

    def abort(self, job_id: str) -> None:
        """As an engine's."""
        ticket = self._tickets.get(job_id)
        if ticket is None:
            return
        if self._engine is not None and job_id not in self._waiting:
            self._engine.abort(ticket.engine_id)
        self.forget(ticket)

    def begin(self, engine: Engine) -> int:
        """An engine is ready. Returns how many jobs go on there that have lost another one."""
        self._engine = engine
        num_resuming = self.num_resuming
        self._send_waiting()
        return num_resuming

    def lose(self) -> None:
        """The engine is lost, and with it what it was working on."""
        if self._engine is None:
            return
        self._engine, accused, self._on_trial = None, self._on_trial, None
        now = time.monotonic()
        for ticket in [*self._tickets.values()]:
            if ticket.job.id not in self._waiting:
                ticket.num_deaths += 1
                ticket.all_deaths += 1
                self._waiting[ticket.job.id] = ticket
            ticket.waits_since = ticket.waits_since or now
        # In the order of their submission again.
        self._waiting = {job_id: self._waiting[job_id] for job_id in self._tickets}
        if not self.resume:
            self.fail(stopped())
        for ticket in [*self._tickets.values()]:
            if ticket is accused or ticket.all_deaths >= MOST_DEATHS:
                self._condemn(ticket)
        self._watch()

    def fail(self, failure: RequestFailure) -> None:
        """No engine will work on them any more."""
        for ticket in [*self._tickets.values()]:
            self._fail(ticket, failure)

    def goes_on(self, ticket: Ticket) -> None:
        """It has a token since it lost an engine, so it was not what killed that."""
        ticket.num_deaths = 0
        if ticket is self._on_trial:
            self._acquit()

    def forget(self, ticket: Ticket) -> None:
        """It has ended."""
        del self._tickets[ticket.job.id]
        self._waiting.pop(ticket.job.id, None)
        if ticket is self._on_trial:
            self._acquit()

    def _acquit(self) -> None:
        self._on_trial = None
        # Not from within the handing out of a step: what is sent now is none of that.
        asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        if self._engine is None or self._on_trial is not None:
            return
        suspect = next(self._suspects(), None)
        if suspect is not None:
            self._on_trial = suspect
            self._send(suspect)
            return
        for ticket in [*self._waiting.values()]:
            self._send(ticket)

    def _suspects(self) -> Iterator[Ticket]:
        return (ticket for ticket in self._waiting.values() if ticket.num_deaths >= SUSPICIOUS)

    def _send(self, ticket: Ticket) -> None:
        assert self._engine is not None
        self._waiting.pop(ticket.job.id, None)
        ticket.waits_since = None
        self._engine.submit(ticket.rest(), ticket.take)

    def _condemn(self, ticket: Ticket) -> None:
        log.error(
            "request %s: %d engines died while they worked on it (the last one on it alone, or the most that"
            " are tried); it is given up",
            ticket.job.request_id,
            ticket.all_deaths,
        )
        self._fail(ticket, EngineDeathsError(ticket.job.request_id, ticket.all_deaths))

    def _fail(self, ticket: Ticket, failure: RequestFailure) -> None:
        if self._tickets.get(ticket.job.id) is not ticket:  # ended with another of its request
            return
        if self._engine is not None and ticket.job.id not in self._waiting:
            self._engine.abort(ticket.engine_id)
        self.forget(ticket)
        ticket.sink(failure)

    def _watch(self) -> None:
        """See to it that nobody waits for too long."""
        if self._timer is not None:
            self._timer.cancel()
        since = [ticket.waits_since for ticket in self._waiting.values() if ticket.waits_since is not None]
        if since:
            delay_s = min(since) + self.resume_timeout_s - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._time_is_up)

    def _time_is_up(self) -> None:
        now = time.monotonic()
        for ticket in [*self._waiting.values()]:
            if ticket.waits_since is not None and now >= ticket.waits_since + self.resume_timeout_s:
                self._fail(ticket, _took_too_long(self.resume_timeout_s))
        self._watch()


def _took_too_long(seconds: float) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"the engine has stopped, and no other one was ready within {seconds:g} s (resume_timeout_s)",
        retry_after_s=30,
    )
