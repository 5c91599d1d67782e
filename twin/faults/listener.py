"""The server with a port that can refuse connections for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn

from server.config.values import UNIX
from server.process.port import Server, open_port
from twin.faults.connection import FaultyConnection
from twin.faults.rules import Faults

log = logging.getLogger("verbatim.faults")


def _opens(listener: socket.socket) -> Callable[[], socket.socket]:
    """A function that makes another socket with the same address, not listening, when this one is closed."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        mode = stat.S_IMODE(Path(name).stat().st_mode)
        return partial(open_port, f"{UNIX}{name}", 0, 0, listens=False, mode=mode)
    timeout_s = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000
    host, port, *_ = name
    return partial(open_port, host, port, timeout_s, listens=False)


class FaultyServer(Server):
    """Serves one listener at a time; after each time of refusing, another one replaces it."""

    def __init__(self, config: uvicorn.Config, *, faults: Faults) -> None:
        super().__init__(config)
        self._refusing: asyncio.Task[None] | None = None
        faults.refuse = self.refuse

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        (listener,) = sockets
        self._open = _opens(listener)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._refusing is not None:
            self._refusing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refusing
        await super().shutdown(sockets)

    def refuse(self, seconds: float) -> None:
        """Close the port for this long, with idle connections; the others end after their reply. No effect
        while it is closed already."""
        if self._refusing is not None:
            return
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, FaultyConnection):
                connection.retire()
        # Bound, but not listening: the port stays ours, and the kernel refuses connections.
        listener = self._open()
        log.info("the fault refuse closes the port for %g s", seconds)
        self._refusing = asyncio.create_task(self._open_again(listener, seconds))

    async def _open_again(self, listener: socket.socket, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            listener.close()
            raise
        await self.startup([listener])
        self._refusing = None
