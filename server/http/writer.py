"""Writes parts of a body to a connection without being awaited.

`send` is a coroutine, with a message and a dozen checks for each chunk: half of the cost of a token.
"""

from __future__ import annotations

import asyncio


class Writer:
    """The write side of one connection; a small object of its own, because each token passes it.

    is_full: whether the peer must read before more is written.
    """

    __slots__ = ("_transport", "is_full")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.is_full = False

    def chunk(self, part: bytes) -> bool:
        """Write a part of the running response, which has begun without a content-length, as one chunk.

        False: the connection is full or closed, and nothing was written; `send` waits until it takes more.
        """
        if self.is_full or self._transport.is_closing():
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    def part(self, part: bytes) -> bool:
        """As chunk, for a client that does not know chunks."""
        if self.is_full or self._transport.is_closing():
            return False
        self._transport.write(part)
        return True
