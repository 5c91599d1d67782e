"""A connection's transport that sends what a fault makes of a reply, when the fault says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any

from twin.faults.fault import Ending, Step, Wait
from twin.faults.wire import Wire

LINGER_NOT = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
END_OF_DATA = object()  # the server's write_eof, at its place in the queue


class FaultyTransport:
    """Wraps the loop's own transport.

    Everything to send goes through one queue, so that the replies of a connection stay in order: while a
    fault pauses, what the server writes waits.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._reply: Wire | None = None
        self._line: deque[Step | object] = deque()
        self._pause: asyncio.TimerHandle | None = None
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def spoil(self, reply: Wire) -> None:
        """Send the server's next reply this way."""
        self._reply = reply

    @property
    def is_waiting(self) -> bool:
        """Whether something waits in the queue."""
        return self._pause is not None

    def write(self, data: bytes) -> None:
        if self._is_closing:  # a fault has ended the connection, and the server does not know yet
            return
        if self._reply is None and not self.is_waiting:
            self._inner.write(data)
        elif self._reply is None:
            self._line.append(data)
        else:
            reply = self._reply
            steps = [*reply.feed(data)]
            if reply.is_over:
                self._reply = None
            self._put(steps)

    def write_eof(self) -> None:
        self._put((*self._rest(), END_OF_DATA))

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._put((*self._rest(), Ending.CLOSE))

    def is_closing(self) -> bool:
        return self._is_closing or bool(self._inner.is_closing())

    def abort(self) -> None:
        self.stop()
        self._inner.abort()

    def stop(self) -> None:
        """Drop everything that still waits."""
        self._line.clear()
        self._reply = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def reset(self) -> None:
        """Reset the connection (RST)."""
        sock: socket.socket = self._inner.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.abort()

    def _rest(self) -> Iterable[Step]:
        """The server ends the connection: an unfinished reply is over too."""
        reply, self._reply = self._reply, None
        return () if reply is None else reply.close()

    def _put(self, steps: Iterable[Step | object]) -> None:
        self._line.extend(steps)
        if not self.is_waiting:
            self._send()

    def _send(self) -> None:
        self._pause = None
        while self._line:
            step = self._line.popleft()
            if isinstance(step, bytes):
                if step:
                    self._inner.write(step)
            elif isinstance(step, Wait):
                self._pause = asyncio.get_running_loop().call_later(step.seconds, self._send)
                return
            elif step is END_OF_DATA:
                self._inner.write_eof()
            else:
                self._end(step is Ending.RESET)

    def _end(self, by_reset: bool) -> None:
        self.stop()
        self._is_closing = True
        if by_reset:
            self.reset()
        else:
            self._inner.close()
