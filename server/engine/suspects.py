"""Jobs that may be killing engines: each is tried alone on an engine.

A job that was running when two engines in a row died is sent to the next one alone; the other waiting jobs
follow once it has generated a token. If that engine dies as well, the job fails; no other job does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from server.engine.replica import Replica
from server.engine.ticket import Ticket
from server.engine.trials import Trials
from server.errors import EngineDeathsError
from server.observe.trail import Step

log = logging.getLogger(__name__)

# Engines that a job may lose in a row, without a token in between, before it is suspected.
SUSPICIOUS = 2
# Engines that a job may lose in all, before it stays a suspect until its end: it may kill each engine a few
# tokens later.
MANY_DEATHS = 10
# How long a trial waits for a lost engine to come back, before the next suspect's turn.
EXPECTED_S = 30.0


class Suspects:
    """trials: those of other processes on the same engines. on_trial: the job that is being tried."""

    def __init__(self) -> None:
        self.trials = Trials()
        self.on_trial: Ticket | None = None
        self._tickets: dict[str, Ticket] = {}
        self._waits_since: float | None = None  # for a lost engine to come back

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def replica(self, replicas: Sequence[Replica], num_senders: int) -> Replica | None:
        """The replica for the next trial: preferably one that lost its engine, because no other process has
        jobs there. None: there is none yet."""
        lost = [one for one in replicas if one.has_lost]
        if not lost and num_senders > 1:
            now = time.monotonic()
            self._waits_since = self._waits_since or now
            if now - self._waits_since < EXPECTED_S:
                return None
        self._waits_since = None
        return min(lost or replicas, key=lambda one: len(one.placed))

    def next(self) -> Ticket:
        """The next job to try."""
        self.on_trial = next(iter(self._tickets.values()))
        return self.on_trial

    def died(self, lost: list[Ticket], *, is_shared: bool = False, cause: str = "") -> Ticket | None:
        """An engine with these jobs has died. Returns the job that it worked on alone: that one is guilty.
        is_shared: other processes may have had jobs there. cause: how it ended."""
        for ticket in lost:
            ticket.num_deaths += 1
            ticket.all_deaths += 1
            ticket.mark(Step.LOST, cause=cause)
            if ticket.num_deaths >= SUSPICIOUS or ticket.all_deaths >= MANY_DEATHS:
                self._tickets[ticket.job.id] = ticket
        self.trials.note(has_suspects=bool(self))
        if self.on_trial not in lost:
            return None
        guilty, self.on_trial = self.on_trial, None
        return None if is_shared else guilty

    def condemn(self, guilty: Ticket) -> EngineDeathsError:
        """The failure of the job on which alone an engine died."""
        request_id, num_engines = guilty.job.request_id, guilty.all_deaths
        log.error(
            "request %s: %d engines died while they worked on it, the last one on it alone; it is given up",
            request_id,
            num_engines,
        )
        return EngineDeathsError(request_id, num_engines)

    def put_off(self, ticket: Ticket) -> None:
        """The job has lost its engine for other reasons."""
        if ticket is self.on_trial:
            self.on_trial = None

    def began(self, ticket: Ticket) -> bool:
        """The job has a token since it lost an engine. Returns whether a trial is over."""
        if not ticket.num_deaths:
            return False
        ticket.num_deaths = 0  # so this job did not kill the engine
        return ticket.all_deaths < MANY_DEATHS and self.clear(ticket)

    def clear(self, ticket: Ticket) -> bool:
        """The job is no suspect, or has ended. Returns whether a trial is over."""
        if self._tickets.pop(ticket.job.id, None) is not None:
            self.trials.note(has_suspects=bool(self))
        was_on_trial = ticket is self.on_trial
        self.put_off(ticket)
        return was_on_trial
