"""The jobs of one model from submission to end, whichever engines work on them.

An engine holds nothing of a job that could not be sent again: its prompt, the tokens so far, its seed. So a
job whose engine is lost waits here for the next one, which continues where the last one stopped; the sink
only notices a pause. A job that makes room for another key's job waits in the same way, and so does one that
its request pauses.
"""

from __future__ import annotations

import time

from server.engine.base import Engine, Job, Sink, stopped
from server.engine.prefixes import BLOCK
from server.engine.replica import Replica
from server.engine.router import Router
from server.engine.suspects import Suspects
from server.engine.ticket import Route, Ticket
from server.engine.turns import Turns
from server.engine.waits import Soon, Waits
from server.errors import RequestFailure
from server.observe.trail import Step

# Seconds between comparisons of the keys while jobs wait and none ends.
LOOK_S = 0.5
# Seconds between two looks at the trials of other processes.
TRIALS_S = 0.05


class Work:
    """resume: whether jobs outlive their engine. resume_timeout_s: how long a job that has lost its engine
    waits for the next. turns: whose turn it is, over the places of all replicas. num_senders: processes that
    have jobs on the same engines."""

    def __init__(
        self, *, resume: bool = True, resume_timeout_s: float = 120.0, turns: Turns | None = None
    ) -> None:
        self.resume = resume
        self.waits = Waits(self._fail, resume_timeout_s)
        self.turns = turns or Turns()
        self.suspects = Suspects()
        self.num_senders = 1
        self.router = Router()
        self._num_places = self.turns.num_places
        self._replicas: dict[int, Replica] = {}
        self._tickets: dict[str, Ticket] = {}  # by job id; in the order of submission
        self.num_submitted = 0  # in all
        self._send_soon = Soon(self._send_waiting)

    def __len__(self) -> int:
        """Jobs that have neither ended nor been aborted."""
        return len(self._tickets)

    @property
    def num_resuming(self) -> int:
        """Jobs that have lost their engine and wait for another."""
        return 0 if self.is_held else len(self.waits)

    @property
    def is_held(self) -> bool:
        """Whether its engines are unloaded, or about to be."""
        return self.waits.is_for_load

    @property
    def longest_wait_s(self) -> float:
        """How long the first of the jobs without a token has waited for it."""
        first = next((one for one in self._tickets.values() if not one.delivered), None)
        return 0.0 if first is None else time.monotonic() - first.came_at

    def num_placed(self, number: int) -> int:
        """Jobs on a replica."""
        return len(self._replica(number).placed)

    def set_places(self, num_places: int) -> None:
        """Set the number of jobs per replica at the same time, for this process."""
        self._num_places = num_places
        for replica in self._replicas.values():
            replica.num_places = num_places
        self._count_places(self._open())

    def is_paused(self, job_id: str) -> bool:
        """Whether the job waits for an engine, or has lost its place there, or is paused."""
        ticket = self._tickets.get(job_id)
        if ticket is None or ticket.route is not None:
            return False
        return bool(ticket.delivered) or ticket.waits_since is not None

    def submit(self, job: Job, sink: Sink) -> None:
        """As Engine.submit. Without an engine the job waits."""
        self.num_submitted += 1
        ticket = Ticket(self.num_submitted, job, sink, self._ended, self._began)
        self._tickets[job.id] = ticket
        self._queue(ticket)

    def abort(self, job_id: str) -> None:
        """As Engine.abort."""
        if (ticket := self._tickets.get(job_id)) is not None:
            self._take_off(ticket)
            self._forget(ticket)

    def pause(self, job_id: str) -> None:
        """Take a running job off its engine until unpause. One without an engine keeps waiting for one, and
        while any job is suspected of killing engines, none is paused."""
        ticket = self._tickets.get(job_id)
        if ticket is not None and ticket.route is not None and not self.suspects:
            self._take_off(ticket)
            ticket.is_paused = True
            self.turns.discard(ticket)
            if self.turns.num_waiting:
                self._send_soon()

    def unpause(self, job_id: str) -> None:
        """A paused job continues when it is its turn. Others are not changed."""
        ticket = self._tickets.get(job_id)
        if ticket is not None and ticket.is_paused:
            ticket.is_paused = False
            self._queue(ticket)

    def begin(self, engine: Engine, number: int = 0) -> int:
        """A replica's engine is ready. Returns how many jobs that waited for one now continue."""
        self._replica(number).engine = engine
        if engine.cache_tokens:
            self.router.prefixes.set_capacity(number, engine.cache_tokens // BLOCK)
        num_resuming = self.num_resuming
        if not self.is_held:
            self.waits.clear()
        self._send_waiting()
        return num_resuming

    def recall(self, number: int = 0) -> None:
        """Take a replica's jobs back, so that another engine continues them; nobody is to blame."""
        replica = self._replica(number)
        if replica.engine is None:
            return
        for ticket in replica.placed.values():
            replica.engine.abort(ticket.engine_id)
            self.suspects.put_off(ticket)
            ticket.recalled()
        self._vacate(replica)

    def lose(self, number: int = 0, cause: str = "") -> int:
        """A replica's engine is lost; cause: how. Returns how many of its jobs continue elsewhere at once."""
        replica = self._replica(number)
        if replica.engine is None:
            return 0
        lost = [*replica.placed.values()]
        is_shared = self.num_senders > 1 and not replica.has_lost
        guilty = self.suspects.died(lost, is_shared=is_shared, cause=cause)
        replica.has_lost = True
        self.router.prefixes.forget(number)
        self._vacate(replica)
        if not self.resume:
            for ticket in [*self._tickets.values()] if not self._open() else lost:
                self._fail(ticket, stopped())
        if guilty is not None and self._tickets.get(guilty.job.id) is guilty:
            self._fail(guilty, self.suspects.condemn(guilty))
        return len(lost) if self._open() else 0

    def hold(self) -> None:
        """Running jobs end where they are; new jobs wait until go_on."""
        if not self.is_held:
            self.waits.is_for_load = True
            self.waits.add(ticket for ticket in self._tickets.values() if ticket.route is None)

    def go_on(self) -> None:
        """Continue with the engines that are ready."""
        if self.is_held and self._open():
            self.waits.is_for_load = False
            self.waits.clear()
            self._send_waiting()

    def unload(self, number: int) -> None:
        """A replica's engine and its cache are gone; another engine comes on demand."""
        self.hold()
        self.recall(number)
        self.router.prefixes.forget(number)

    def drain(self, number: int, is_leaving: bool = True) -> None:
        """A replica is to end: its jobs end there, and new jobs go elsewhere."""
        self._replica(number).is_leaving = is_leaving

    def remove(self, number: int) -> None:
        """The replica is gone."""
        self.recall(number)
        self._replicas.pop(number, None)
        self.router.prefixes.forget(number)

    def fail(self, failure: RequestFailure) -> None:
        """No engine will work on the jobs any more."""
        for ticket in [*self._tickets.values()]:
            self._fail(ticket, failure)

    def _queue(self, ticket: Ticket) -> None:
        self.turns.add(ticket)
        if self.is_held or not self._open():
            self.waits.add((ticket,))
        self._send_waiting()

    def _replica(self, number: int) -> Replica:
        if number not in self._replicas:
            self._replicas[number] = self.router.replica(number, self._num_places)
        return self._replicas[number]

    def _open(self) -> list[Replica]:
        """The replicas that take jobs."""
        there = [one for one in self._replicas.values() if one.engine is not None]
        return [one for one in there if not one.is_leaving] or there

    def _vacate(self, replica: Replica) -> None:
        """The replica takes no more jobs; its jobs wait for their turn elsewhere, or for an engine."""
        replica.engine = None
        for ticket in [*replica.placed.values()]:
            replica.leave(ticket)
            self.turns.put_back(ticket)
        if self._open():
            self._send_soon()
            return
        self.waits.add(self._tickets.values())

    def _take_off(self, ticket: Ticket) -> None:
        """No engine works on the job any more."""
        if ticket.route is not None:
            replica = self._replicas[ticket.route.replica]
            if replica.engine is not None:
                replica.engine.abort(ticket.engine_id)
            replica.leave(ticket)

    def _began(self, ticket: Ticket) -> None:
        """The job has its first token since it was sent."""
        if ticket.route is not None:
            self.router.began(ticket, self._replicas[ticket.route.replica])
        if self.suspects.began(ticket):
            self._send_soon()

    def _ended(self, ticket: Ticket) -> None:
        """The job has ended, on its replica."""
        if ticket.route is not None:
            replica = self._replicas[ticket.route.replica]
            self.router.ended(ticket, replica)
            replica.leave(ticket)
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        del self._tickets[ticket.job.id]
        if ticket.is_paused:
            ticket.mark(Step.ENDED)
        else:
            self.turns.discard(ticket)
        if ticket.waits_since is not None:
            self.waits.discard(ticket)
        if self.suspects.clear(ticket) or self.turns.num_waiting:
            self._send_soon()

    def _send_waiting(self) -> None:
        replicas = self._open()
        if self.is_held or not replicas or self.suspects.on_trial is not None:
            return
        is_unsure = self.suspects or any(one.has_lost for one in replicas)
        if is_unsure and not self.suspects.trials.is_next():
            self._send_soon(TRIALS_S)
            # Another process tries its suspects on a replica that lost its engine.
            replicas = [] if self.suspects else [one for one in replicas if not one.has_lost]
        elif self.suspects:
            self._try_next(replicas)
            return
        else:
            for replica in replicas:
                replica.has_lost = False
        if replicas:
            self._count_places(replicas)
            self._send_next(replicas)

    def _count_places(self, replicas: list[Replica]) -> None:
        """Count the places of these replicas, which take jobs, and of leaving ones that still have jobs."""
        ones = self._replicas.values()
        places = (one.num_places if one in replicas else len(one.placed) for one in ones)
        self.turns.num_places = sum(places) or self._num_places

    def _try_next(self, replicas: list[Replica]) -> None:
        """Send the first suspect to a replica without other jobs."""
        if (replica := self.suspects.replica(replicas, self.num_senders)) is None:
            self._send_soon(LOOK_S)
            return
        for ticket in [*replica.placed.values()]:  # such as one that was tried before, and continues later
            self._take_off(ticket)
            self.turns.put_back(ticket)
        ticket = self.suspects.next()
        if ticket.route is not None:
            self._take_off(ticket)
            self.turns.put_back(ticket)
        self._send(ticket, [replica])

    def _send_next(self, replicas: list[Replica]) -> None:
        while (turn := self.turns.next()) != (None, None):
            gives_way, takes_place = turn
            if gives_way is not None:
                self._take_off(gives_way)
                self.turns.put_back(gives_way)
            if takes_place is not None:
                self._send(takes_place, replicas)
        if self.turns.num_waiting:
            self._send_soon(LOOK_S)

    def _send(self, ticket: Ticket, replicas: list[Replica]) -> None:
        if ticket.waits_since is not None:
            self.waits.discard(ticket)
        if len(self._replicas) > 1:
            replica = self.router.place(ticket, replicas, self.num_senders)
        else:
            replica = replicas[0]
            replica.place(ticket, Route(replica.number))
        ticket.is_watched = len(self._replicas) > 1 or ticket.num_deaths > 0
        assert replica.engine is not None
        replica.engine.submit(ticket.rest(self.turns.place(ticket)), ticket.take)

    def _fail(self, ticket: Ticket, failure: RequestFailure) -> None:
        if self._tickets.get(ticket.job.id) is not ticket:  # ended with another job of its request
            return
        self.abort(ticket.job.id)
        ticket.sink(failure)
