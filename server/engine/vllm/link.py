"""The way to an engine: two sockets in a folder that is this user's alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

import zmq

from server.engine.vllm.exchange import Exchange
from server.engine.vllm.wire import ABORT, cache_tokens, encode

ENGINE = b"\x00\x00"  # the name of an engine that is alone: vLLM's number of it
POLL_S = 0.02
# Of a folder in which /verbatim-xxxxxxxx/0-63/outputs can be a socket: Linux takes 107.
MOST_PATH_BYTES = 75
ELSEWHERE = ("/tmp", "/dev/shm")  # noqa: S108
ROOM_BYTES = 1 << 16  # vLLM's file there has a few hundred bytes


def sockets_folder() -> tempfile.TemporaryDirectory[str]:
    """A new one for sockets and small files, this user's alone: where temporary files are, if that path is
    short enough and its disk is not full; else where there is room, which there is in memory."""
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
    return tempfile.TemporaryDirectory(prefix="verbatim-", dir=short[0])  # sockets need no room


class Link(Exchange):
    """folder: where the sockets are; without, one of its own, which ends with it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = None if folder else sockets_folder()
        self.folder = folder or Path(self._own_folder.name)  # type: ignore[union-attr]  # one of them is there
        self._context = zmq.Context()
        self._inputs = self._context.socket(zmq.ROUTER)
        # Engines have all the same name: the next one takes the place of one that was here before.
        self._inputs.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._bind(self._inputs, inputs_of(self.folder))
        outputs = self._context.socket(zmq.PULL)
        self._bind(outputs, outputs_of(self.folder))
        self._engine = b""  # the name that the engine has given itself
        self.cache_tokens = 0  # that its prefix cache has room for, as it says when it has started
        super().__init__(outputs)

    async def connected(self) -> None:
        """Return when the engine has started and can be sent to."""
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
        """Return when an engine can be sent to that has started, and has perhaps said so to another process
        that was here before."""
        self._engine = ENGINE
        self._inputs.setsockopt(zmq.ROUTER_MANDATORY, 1)  # or what cannot be sent is dropped
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
        socket.sndhwm = socket.rcvhwm = 0  # nothing is ever dropped, or waited for
        socket.bind(address)


def inputs_of(folder: Path) -> str:
    """The address of a link's socket for requests."""
    return f"ipc://{folder / 'in'}"


def outputs_of(folder: Path) -> str:
    """The address of a link's socket for what comes of them."""
    return f"ipc://{folder / 'out'}"


def handshake_of(folder: Path) -> str:
    """The address where the engine's own process answers it."""
    return f"ipc://{folder / 'handshake'}"
