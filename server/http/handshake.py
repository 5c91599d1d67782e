"""The TLS handshake of a connection. Until it is done, the connection counts as one that has sent nothing.

asyncio can make handshakes too, but with one context for ever, and without counting them: clients that
connect and say nothing could use up all file descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from server.errors import RequestFailure
from server.http.certificates import Certificates
from server.http.connections import LINGER_S, Connections
from server.http.eager import begin

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
# The same as without TLS; asyncio's own limit would buffer half a MB for each slow reader.
WRITE_BUFFER_BYTES = 64 * 1024


class Handshake(asyncio.Protocol):
    """The protocol of a connection until its handshake is done; then the protocol that `make`
    returns takes over.

    make: called as uvicorn calls it.
    """

    def __init__(
        self,
        *,
        make: Callable[..., asyncio.Protocol],
        certificates: Certificates,
        connections: Connections,
        server_state: Any,
        **rest: Any,
    ) -> None:
        self._make = partial(make, server_state=server_state, **rest)
        self._certificates = certificates
        self._all = connections
        self._unanswered = server_state.connections  # uvicorn ends these when the server ends
        self._ahead: list[bytes] = []  # data that came with the end of the handshake
        self._is_lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self._all.admit(self):
            transport.abort()  # an error reply would need a handshake
            return
        self._unanswered.add(self)
        # Pause at once: data that comes before the task starts would go to this protocol and be lost.
        loop, context = asyncio.get_running_loop(), self._certificates.context()
        starting = begin(
            loop.start_tls(
                *(transport, self, context),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=LINGER_S,
            )
        )
        assert starting is not None, "a handshake waits for the client"
        self._task = loop.create_task(self._go_on(starting))

    def data_received(self, data: bytes) -> None:
        self._ahead.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._end()

    async def _go_on(self, starting: Awaitable[Any]) -> None:
        try:
            secure = await starting
        except OSError as error:  # ssl.SSLError is an OSError
            if isinstance(error, ssl.SSLError | ConnectionAbortedError):
                self._all.note_failed_handshake()
            log.debug("a TLS handshake failed: %s", error)
            secure = None
        self._end()
        if (
            secure is None or self._is_lost or secure.is_closing()
        ):  # the connection is lost, even if nothing else says so
            self.transport.abort()
            return
        secure.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        protocol = self._make()
        secure.set_protocol(protocol)
        protocol.connection_made(secure)
        for data in self._ahead:
            protocol.data_received(data)

    def _end(self) -> None:
        self._unanswered.discard(self)
        self._all.forget(self)

    # --- methods that Connections and uvicorn call ----------------------------------------------------------

    def refuse(self, failure: RequestFailure) -> None:
        self.drop()

    def drop(self) -> None:
        self.transport.abort()

    def shutdown(self) -> None:
        self.drop()
