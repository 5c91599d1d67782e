"""A watched connection: what is sent on it, and how it ends."""

from __future__ import annotations

import time
from typing import Any

from server.http.protocol import Protocol
from twin.verdict.attempt import Attempt
from twin.verdict.eyes import Eyes

WATCH = "verbatim.watch"  # key in scope["extensions"]: the connection itself


class Tap:
    """Wraps the loop's own transport."""

    def __init__(self, inner: Any, connection: WatchedConnection) -> None:
        self._inner = inner
        self._connection = connection
        self._write = inner.write  # looked up once, because both are used for each token
        self.is_closing = inner.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        self._connection.sent(data)
        self._write(data)

    def close(self) -> None:
        self._connection.closed_here()
        self._inner.close()

    def abort(self) -> None:
        self._connection.closed_here()
        self._inner.abort()


class WatchedConnection(Protocol):
    """The application (app.py) sets which request is answered on it: `number`, and `watched`."""

    def __init__(self, *args: Any, eyes: Eyes, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._eyes = eyes
        self._attempt: Attempt | None = None
        self._is_closed_here = False

    def connection_made(self, transport: Any) -> None:
        self.number = self._eyes.connection()
        super().connection_made(Tap(transport, self))

    def connection_lost(self, exc: Exception | None) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.left is None and not self._is_closed_here:
            if not attempt.is_complete:
                attempt.left = time.monotonic()
            elif isinstance(exc, ConnectionResetError | BrokenPipeError):
                attempt.is_unread = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        extensions: dict[str, object] | None = self.scope.get("extensions")  # type: ignore[assignment]
        if extensions is not None:
            extensions[WATCH] = self

    def watched(self, attempt: Attempt) -> None:
        """What is sent from now on is the reply to this attempt."""
        self._attempt = attempt

    def sent(self, data: bytes) -> None:
        if self._attempt is not None:
            self._attempt.feed(data, time.monotonic())

    def closed_here(self) -> None:
        self._is_closed_here = True
        attempt = self._attempt
        if attempt is not None and not attempt.is_over:
            attempt.cut = time.monotonic()
