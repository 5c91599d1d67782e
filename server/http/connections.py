"""The connections of a process: how many there may be, and how long each may take over its request.

protocol.py says in which phase each is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from enum import Enum, auto
from typing import Protocol

from server.config.settings import Settings
from server.errors import RequestFailure, RequestTooSlow, ServiceUnavailable
from server.http.metrics import Metrics

log = logging.getLogger(__name__)

# Longer than the 60 s of usual load balancers, so that they close first and never meet a closed one.
KEEP_ALIVE_S = 75
LINGER_S = 2.0  # for a client to see the reply and stop sending
MAX_LINGERING = 64  # beside those that are counted
EVERY_S = 0.5  # how often deadlines are looked at
LOG_EVERY_S = 10.0


class Phase(Enum):
    SILENT = auto()  # no byte of a request has come
    BEGUN = auto()  # one has, and nobody waits for more: its head is not whole, or it has its reply
    BODY = auto()  # its body is waited for
    SERVED = auto()  # it is worked on
    LINGERING = auto()  # what comes is ignored; about to be closed


class Connection(Protocol):
    """What a connection is asked to do."""

    def refuse(self, failure: RequestFailure) -> None:
        """Answer this to the request that comes, if one has begun, and close."""

    def drop(self) -> None:
        """Close at once."""


class Connections:
    """most: how many there may be. Where there are as many, the one that has been silent longest makes room,
    else the one that began its request first; where there is neither, the new one is refused."""

    def __init__(self, settings: Settings, metrics: Metrics, most: int) -> None:
        self.settings = settings
        self._receive_timeout_s = settings.receive_timeout_s or math.inf
        self._limits_s = {
            Phase.SILENT: KEEP_ALIVE_S,
            Phase.BEGUN: self._receive_timeout_s,
            Phase.BODY: self._receive_timeout_s,
            Phase.SERVED: math.inf,
            Phase.LINGERING: LINGER_S,
        }
        self._metrics = metrics
        self._most = most
        self._phases: dict[Connection, Phase] = {}
        # In each phase, when its time is over, of time.monotonic; the first to come is the first.
        self._ends: dict[Phase, dict[Connection, float]] = {phase: {} for phase in Phase}
        self._dropped: Counter[str] = Counter()  # since the log spoke of them
        self._next_log = 0.0

    def admit(self, connection: Connection) -> bool:
        """A connection has been made. False: there is no room for it."""
        if len(self._phases) - len(self._ends[Phase.LINGERING]) >= self._most:
            oldest = next(iter(self._ends[Phase.SILENT] or self._ends[Phase.BEGUN]), None)
            self._count("full" if oldest is None else "silent")
            if oldest is None:
                return False
            self._end(oldest)
        self.place(connection, Phase.SILENT, time.monotonic())
        return True

    def place(self, connection: Connection, phase: Phase, since: float) -> None:
        """It is in this phase, which began then."""
        before = self._phases.get(connection)
        if before is not phase:
            if phase is Phase.LINGERING and len(self._ends[phase]) >= MAX_LINGERING:
                self._end(next(iter(self._ends[phase])))
            if before is not None:
                del self._ends[before][connection]
            self._phases[connection] = phase
        self._ends[phase][connection] = since + self._limits_s[phase]

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        phase = self._phases.pop(connection, None)
        if phase is not None:
            del self._ends[phase][connection]

    def drain(self) -> None:
        """Requests that have not come whole are not waited for."""
        gone = ServiceUnavailable("the server is shutting down; try another one", retry_after_s=10)
        for connection in list(self._ends[Phase.BODY]):
            connection.refuse(gone)

    async def watch(self) -> None:
        """Hold them to their times."""
        late = RequestTooSlow(
            f"the request was not sent whole within {self._receive_timeout_s:g} s (receive_timeout_s)"
        )
        while True:
            await asyncio.sleep(EVERY_S)
            now = time.monotonic()
            for connection in [
                one for ends in self._ends.values() for one, end in ends.items() if end <= now
            ]:
                if self._phases[connection] is Phase.LINGERING:
                    self._end(connection)
                else:
                    connection.refuse(late)
            self._tell(now)

    def _end(self, connection: Connection) -> None:
        self.forget(connection)
        connection.drop()

    def _count(self, reason: str) -> None:
        self._dropped[reason] += 1
        self._metrics.connections_dropped.labels(reason).inc()

    def _tell(self, now: float) -> None:
        """Log what was dropped, not a line for each: what fills the connections must not fill the disk."""
        if self._dropped and now >= self._next_log:
            log.warning(
                "the %d connections that this process may have are taken: %d more were refused with a 503, %d"
                " that sent no request were closed",
                *(self._most, self._dropped["full"], self._dropped["silent"]),
            )
            self._dropped.clear()
            self._next_log = now + LOG_EVERY_S
