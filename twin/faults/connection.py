"""A connection that can carry out faults."""

from __future__ import annotations

from typing import Any

from server.http.protocol import Protocol
from twin.faults.fault import Asked, Fault
from twin.faults.rules import Faults
from twin.faults.transport import FaultyTransport
from twin.faults.wire import Wire

SUFFER = "verbatim.suffer"  # key in scope["extensions"]: the connection's method of that name


class FaultyConnection(Protocol):
    """Our protocol; the reply to a request with a fault is sent in another way.

    The application that chooses the fault (app.py) calls `suffer` before the reply begins.
    """

    def __init__(self, *args: Any, faults: Faults, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._faults = faults
        self._ends_at_reuse = False

    def connection_made(self, transport: Any) -> None:
        self._faulty = FaultyTransport(transport)
        super().connection_made(self._faulty)
        if self._faults.num_resets:
            self._faults.num_resets -= 1
            self._faulty.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        self._faulty.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ends_at_reuse and not self._is_busy:
            self.transport.close()
        else:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        extensions: dict[str, object] | None = self.scope.get("extensions")  # type: ignore[assignment]
        if extensions is not None:
            extensions[SUFFER] = self.suffer

    def shutdown(self) -> None:
        """The process ends, without waiting for the pause of a fault."""
        if self._faulty.is_waiting:
            self._faulty.abort()
        else:
            super().shutdown()

    def drop(self) -> None:
        """The time limit has passed. The pause of a fault does not count: the connection ends after it."""
        if self._faulty.is_waiting:
            self._faulty.close()
        else:
            super().drop()

    def retire(self) -> None:
        """End after the running reply, or now."""
        super().shutdown()

    def suffer(self, fault: Fault, asked: Asked) -> None:
        """The next answered request has this fault."""
        fault.begin(self)
        self._faulty.spoil(Wire(fault, has_body=asked.method != "HEAD"))

    # --- effects of a fault beyond its reply (Reach in fault.py) -------------------------------------------

    def close_port(self, seconds: float) -> None:
        self._faults.refuse(seconds)

    def reset_next(self, count: int) -> None:
        self._faults.num_resets = count

    def end_at_reuse(self) -> None:
        self._ends_at_reuse = True
