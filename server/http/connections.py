"""The connections of a process: their largest number, and the time limits for sending a request.

protocol.py reports the phase of each connection.
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
from server.http.entrance import Entrance
from server.http.metrics import Metrics
from server.ticks import tick

log = logging.getLogger(__name__)

# Longer than the 60 s of common load balancers, so that they close first and never use a closed connection.
KEEP_ALIVE_S = 75
LINGER_S = 2.0  # seconds for a client to read the reply and stop sending
MAX_LINGERING = 64  # in addition to the counted connections
EVERY_S = 0.5  # seconds between two checks of the deadlines
LOG_EVERY_S = 10.0


class Connection(Protocol):
    """What a connection can be asked to do."""

    def refuse(self, failure: RequestFailure) -> None:
        """Answer the request that is coming, if one has begun, with this failure, and close."""

    def drop(self) -> None:
        """Close at once."""


class Phase:
    """What a connection waits for, and its time limit. ends: the deadline of each connection in this phase
    (time.monotonic), earliest first."""

    __slots__ = ("ends", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.ends: dict[Connection, float] = {}


class Connections:
    """The connections of a process; each is in one phase.

    silent: no byte of a request has come. begun: a part of a request has come, and nobody waits for the rest:
    its head is incomplete, or it was answered already. body: the application waits for its body. served: the
    application works on it. lingering: input is ignored, and the connection is about to close.

    most: the largest number of connections. When it is reached, the longest silent connection is closed to
    make room, else the one that began its request first; if there is neither, the new connection is refused.
    """

    def __init__(self, settings: Settings, metrics: Metrics, most: int) -> None:
        self.settings = settings
        self.entrance = Entrance()
        receive_timeout_s = settings.receive_timeout_s or math.inf
        self.silent, self.served, self.lingering = Phase(KEEP_ALIVE_S), Phase(math.inf), Phase(LINGER_S)
        self.begun, self.body = Phase(receive_timeout_s), Phase(receive_timeout_s)
        self._metrics = metrics
        self._most = most
        self._phases: dict[Connection, Phase] = {}
        # Unix sockets whose buffer is full: the transport, bytes waiting, and since when none was taken.
        self._full: dict[Connection, tuple[asyncio.WriteTransport, int, float]] = {}
        self._dropped: Counter[str] = Counter()  # since the last log line about it
        self._next_log = 0.0

    def admit(self, connection: Connection) -> bool:
        """Register a new connection. False: there is no room for it."""
        if len(self._phases) - len(self.lingering.ends) >= self._most:
            oldest = next(iter(self.silent.ends or self.begun.ends), None)
            self._count("full" if oldest is None else "silent")
            if oldest is None:
                return False
            self._end(oldest)
        self.place(connection, self.silent, time.monotonic())
        return True

    def place(self, connection: Connection, phase: Phase, since: float) -> None:
        """Put the connection into this phase, which began at `since`."""
        before = self._phases.get(connection)
        if before is not phase:
            if phase is self.lingering and len(phase.ends) >= MAX_LINGERING:
                self._end(next(iter(phase.ends)))
            if before is not None:
                del before.ends[connection]
            self._phases[connection] = phase
        phase.ends[connection] = since + phase.limit_s

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.note_taking(connection)
        phase = self._phases.pop(connection, None)
        if phase is not None:
            del phase.ends[connection]

    def note_failed_handshake(self) -> None:
        """Count a failed TLS handshake: the client speaks something else, or its certificate is not accepted.
        It is not logged, because strangers could fill the disk."""
        self._metrics.connections_dropped.labels("handshake").inc()

    def note_full(self, connection: Connection, transport: asyncio.WriteTransport) -> None:
        """Note that the peer takes no more data for now. For TCP the kernel has a time-out for this, for Unix
        sockets it has none."""
        self._full[connection] = transport, transport.get_write_buffer_size(), time.monotonic()

    def note_taking(self, connection: Connection) -> None:
        self._full.pop(connection, None)

    def drain(self) -> None:
        """Stop waiting for requests that have not come completely."""
        for connection in list(self.body.ends):
            connection.refuse(
                ServiceUnavailable("the server is shutting down; try another one", retry_after_s=10)
            )

    async def watch(self) -> None:
        """Close connections that exceed their time limits. Runs until cancelled."""
        late = f"the request was not sent completely within {self.begun.limit_s:g} s (receive_timeout_s)"
        while True:
            await tick(EVERY_S)
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
        """Log the number of dropped connections, not a line for each: what fills the connections must not
        fill the disk."""
        if self._dropped and now >= self._next_log:
            log.warning(
                "all %d connections that this process may have are taken: %d more were refused with a 503,"
                " and %d that sent no request were closed",
                *(self._most, self._dropped["full"], self._dropped["silent"]),
            )
            self._dropped.clear()
            self._next_log = now + LOG_EVERY_S


def _overdue(phase: Phase, now: float) -> list[Connection]:
    return [connection for connection, end in phase.ends.items() if end <= now]
