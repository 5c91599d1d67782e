"""The connection to an engine on this machine: two sockets in a folder that only this user can enter."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

import zmq

from server.engine.vllm.exchange import Exchange
from server.engine.vllm.wire import ABORT, cache_tokens, encode

ENGINE = b"\x00\x00"  # vLLM's name for an engine that is alone
POLL_S = 0.02
# Longest path of a folder in which /verbatim-xxxxxxxx/0-63/outputs can be a socket: Linux allows 107 bytes.
MOST_PATH_BYTES = 75
ELSEWHERE = ("/tmp", "/dev/shm")  # noqa: S108
ROOM_BYTES = 1 << 16  # vLLM's file there has some hundred bytes


def sockets_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder for sockets and small files, for this user alone: in the temporary folder if its path is
    short enough and its disk is not full, else where there is room, such as in memory (/dev/shm)."""
    short = [
        path for path in (tempfile.gettempdir(), *ELSEWHERE) if len(os.fsencode(path)) <= MOST_PATH_BYTES
    ]
    for path in short:
        with contextlib.suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="verbatim-", dir=path)
            try:
                file = Path(folder.name, "room")
                file.write_bytes(bytes(ROOM_BYTES))
                file.unlink()
            except OSError:
                folder.cleanup()
            else:
                return folder
    return tempfile.TemporaryDirectory(prefix="verbatim-", dir=short[0])  # sockets need no room on the disk


class Link(Exchange):
    """folder: of the sockets; without it, one of its own, which is removed at the end."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = None if folder else sockets_folder()
        self.folder = folder or Path(self._own_folder.name)  # type: ignore[union-attr]  # one of them is set
        self._context = zmq.Context()
        self._inputs = self._context.socket(zmq.ROUTER)
        # Engines all have the same name: the next one takes the place of the one before.
        self._inputs.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._bind(self._inputs, inputs_of(self.folder))
        outputs = self._context.socket(zmq.PULL)
        self._bind(outputs, outputs_of(self.folder))
        self._engine = b""  # the name that the engine has given itself
        self.cache_tokens = 0  # capacity of its prefix cache in tokens, which it reports when it has started
        super().__init__(outputs)

    async def connected(self) -> None:
        """Return when the engine has started and messages can be sent to it."""
        arrived = self._loop.create_future()

        def read() -> None:
            with contextlib.suppress(zmq.Again):
                self._engine, says = self._inputs.recv_multipart(zmq.NOBLOCK)
                self.cache_tokens = cache_tokens(says)
                if not arrived.done():
                    arrived.set_result(None)

        self._loop.add_reader(self._inputs.FD, read)
        read()
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._inputs.FD)

    async def reached(self) -> None:
        """Return when messages can be sent to an engine that has started, and perhaps told another process
        before this one."""
        self._engine = ENGINE
        self._inputs.setsockopt(zmq.ROUTER_MANDATORY, 1)  # otherwise a message that cannot be sent is dropped
        while True:
            try:
                self._inputs.send_multipart((ENGINE, ABORT, encode([])), zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                await asyncio.sleep(POLL_S)
            else:
                break
        self._inputs.setsockopt(zmq.ROUTER_MANDATORY, 0)

    def close(self) -> None:
        """Safe to call twice."""
        for socket in (self._inputs, self._outputs):
            if not socket.closed:
                self._loop.remove_reader(socket.FD)
                socket.close(linger=0)
        self._context.term()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def _transmit(self, kind: bytes, payload: bytes) -> None:
        self._inputs.send_multipart((self._engine, kind, payload), zmq.NOBLOCK)

    @staticmethod
    def _bind(socket: zmq.Socket[bytes], address: str) -> None:
        socket.sndhwm = socket.rcvhwm = 0  # no limit: messages are never dropped, and sending never blocks
        socket.bind(address)


def inputs_of(folder: Path) -> str:
    """The address of a link's socket for requests."""
    return f"ipc://{folder / 'in'}"


def outputs_of(folder: Path) -> str:
    """The address of a link's socket for outputs."""
    return f"ipc://{folder / 'out'}"


def handshake_of(folder: Path) -> str:
    """The address at which the engine's own process answers its handshake."""
    return f"ipc://{folder / 'handshake'}"
