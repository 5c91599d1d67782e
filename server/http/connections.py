"""The connections of a process: how many there may be, and how long each may take over its request.

protocol.py says in which phase each is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
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


class Connection(Protocol):
    """What a connection is asked to do."""

    def refuse(self, failure: RequestFailure) -> None:
        """Answer this to the request that comes, if one has begun, and close."""

    def drop(self) -> None:
        """Close at once."""


class Phase:
    """What a connection waits for, and how long it may. ends: when that is over for each that is in it, of
    time.monotonic; the first to come is the first."""

    __slots__ = ("ends", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.ends: dict[Connection, float] = {}


class Connections:
    """Each is in one phase.

    silent: no byte of a request has come. begun: one has, and nobody waits for more: its head is not whole,
    or it has its reply. body: its body is waited for. served: it is worked on. lingering: what comes is
    ignored, and it is about to be closed.

    most: how many there may be. Where there are as many, the one that has been silent longest makes room,
    else the one that began its request first; where there is neither, the new one is refused.
    """

    def __init__(self, settings: Settings, metrics: Metrics, most: int) -> None:
        self.settings = settings
        receive_timeout_s = settings.receive_timeout_s or math.inf
        self.silent, self.served, self.lingering = Phase(KEEP_ALIVE_S), Phase(math.inf), Phase(LINGER_S)
        self.begun, self.body = Phase(receive_timeout_s), Phase(receive_timeout_s)
        self._metrics = metrics
        self._most = most
        self._phases: dict[Connection, Phase] = {}
        # Of Unix sockets that are full: the transport, how many bytes wait, since when none was taken.
        self._full: dict[Connection, tuple[asyncio.WriteTransport, int, float]] = {}
        self._dropped: Counter[str] = Counter()  # since the log spoke of them
        self._next_log = 0.0

    def admit(self, connection: Connection) -> bool:
        """A connection has been made. False: there is no room for it."""
        if len(self._phases) - len(self.lingering.ends) >= self._most:
            oldest = next(iter(self.silent.ends or self.begun.ends), None)
            self._count("full" if oldest is None else "silent")
            if oldest is None:
                return False
            self._end(oldest)
        self.place(connection, self.silent, time.monotonic())
        return True

    def place(self, connection: Connection, phase: Phase, since: float) -> None:
        """It is in this phase, which began then."""
        before = self._phases.get(connection)
        if before is not phase:
            if phase is self.lingering and len(phase.ends) >= MAX_LINGERING:
                self._end(next(iter(phase.ends)))
            if before is not None:
                del before.ends[connection]
            self._phases[connection] = phase
        phase.ends[connection] = since + phase.limit_s

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self.note_taking(connection)
        phase = self._phases.pop(connection, None)
        if phase is not None:
            del phase.ends[connection]

    def note_failed_handshake(self) -> None:
        """Of TLS: who connects speaks something else, or has no certificate that is taken. The log has no
        line of it: strangers would fill the disk."""
        self._metrics.connections_dropped.labels("handshake").inc()

    def note_full(self, connection: Connection, transport: asyncio.WriteTransport) -> None:
        """It takes no more for now, and the kernel has no time-out for it, as it has for TCP."""
        self._full[connection] = transport, transport.get_write_buffer_size(), time.monotonic()

    def note_taking(self, connection: Connection) -> None:
        self._full.pop(connection, None)

    def drain(self) -> None:
        """Requests that have not come whole are not waited for."""
        for connection in list(self.body.ends):
            connection.refuse(
                ServiceUnavailable("the server is shutting down; try another one", retry_after_s=10)
            )

    async def watch(self) -> None:
        """Hold them to their times."""
        late = f"the request was not sent whole within {self.begun.limit_s:g} s (receive_timeout_s)"
        while True:
            await asyncio.sleep(EVERY_S)
            now = time.monotonic()
            for connection in _overdue(self.lingering, now):
                self._end(connection)
            self._look_at_full(now)
            for phase in (self.silent, self.begun, self.body):
                for connection in _overdue(phase, now):
                    connection.refuse(RequestTooSlow(late))
            self._tell(now)

    def _look_at_full(self, now: float) -> None:
        limit_s = self.settings.slow_reader_timeout_s or math.inf
        for connection, (transport, num_unsent, since) in list(self._full.items()):
            if transport.get_write_buffer_size() != num_unsent:
                self.note_full(connection, transport)
            elif now - since > limit_s:
                self.note_taking(connection)
                self._end(connection)

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


def _overdue(phase: Phase, now: float) -> list[Connection]:
    return [connection for connection, end in phase.ends.items() if end <= now]
