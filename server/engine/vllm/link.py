"""The way to an engine: two sockets in a folder that is this user's alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import zmq

from server.engine.vllm.wire import (
    ABORT,
    ADD,
    DEAD,
    QUESTION,
    UTILITY,
    CoreOutputs,
    CoreRequest,
    Signs,
    decode,
    encode,
    signs,
)

log = logging.getLogger(__name__)

ENGINE = b"\x00\x00"  # the name of an engine that is alone: vLLM's number of it
POLL_S = 0.02
# Of a folder in which /verbatim-xxxxxxxx/0-63/outputs can be a socket: Linux takes 107.
MOST_PATH_BYTES = 75
ELSEWHERE = ("/tmp", "/dev/shm")  # noqa: S108
ROOM_BYTES = 1 << 16  # vLLM's file there has a few hundred bytes
SEND_TOGETHER = 16  # more would let the engine wait for the first of them


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


class Link:
    """folder: where the sockets are; without, one of its own, which ends with it.

    is_answered: whether the engine has answered what it was asked last. signs: its last answer.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = None if folder else sockets_folder()
        self.folder = folder or Path(self._own_folder.name)  # type: ignore[union-attr]  # one of them is there
        self._context = zmq.Context()
        self._inputs = self._context.socket(zmq.ROUTER)
        # Engines have all the same name: the next one takes the place of one that was here before.
        self._inputs.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._bind(self._inputs, inputs_of(self.folder))
        self._outputs = self._context.socket(zmq.PULL)
        self._bind(self._outputs, outputs_of(self.folder))
        self._engine = b""  # the name that the engine has given itself
        self._unsent: list[tuple[bytes, bytes]] = []
        self.is_answered = True
        self.signs = Signs()
        self._loop = asyncio.get_running_loop()

    async def connected(self) -> None:
        """Return when the engine has started and can be sent to."""
        arrived = self._loop.create_future()

        def read() -> None:
            with contextlib.suppress(zmq.Again):
                self._engine, _ = self._inputs.recv_multipart(zmq.NOBLOCK)
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

    def listen(self, take: Callable[[list[CoreOutputs]], None], dead: Callable[[], None]) -> None:
        """Hand over what steps bring, from within the event loop's reading of it: of one step, or of several
        where the engine is faster than this process.

        dead: called when the engine says that it has failed, or sends what cannot be read: what came for
        whom is not known then. Nothing is read after that. The border where no error of ours, nor of the
        engine's, leaves jobs waiting for ever.
        """

        def read() -> None:
            try:
                is_over = self._hand_over(take)
            except Exception:
                log.exception("what the engine has sent cannot be read")
                is_over = True
            if is_over:
                self._loop.remove_reader(self._outputs.FD)
                dead()

        self._loop.add_reader(self._outputs.FD, read)
        read()

    def _hand_over(self, take: Callable[[list[CoreOutputs]], None]) -> bool:
        """All that has come. Returns whether the engine has failed with it."""
        steps = []
        try:
            # The descriptor tells of a change, not of a state: all there is has to be read.
            with contextlib.suppress(zmq.Again):
                while True:
                    frames = self._outputs.recv_multipart(zmq.NOBLOCK)
                    if frames[0] == DEAD:
                        return True
                    outputs = decode(frames)
                    if outputs.utility_output is None:
                        steps.append(outputs)
                    else:
                        self.is_answered, self.signs = True, signs(outputs.utility_output)
        finally:
            if steps:
                take(steps)
        return False

    def add(self, request: CoreRequest) -> None:
        """Begin a request.

        Those that come at once are sent a few together: each time the transport's thread is woken costs as
        much as a whole message.
        """
        self._send(ADD, encode(request))

    def abort(self, request_ids: list[str]) -> None:
        """Unknown ids are ignored."""
        self._send(ABORT, encode(request_ids))

    def ask(self) -> None:
        """For a sign of life, between two steps. To be called when the last question is answered."""
        self.is_answered = False
        self._send(UTILITY, encode((0, 0, QUESTION, ())))

    def close(self) -> None:
        """Safe to call twice."""
        for socket in (self._inputs, self._outputs):
            if not socket.closed:
                self._loop.remove_reader(socket.FD)
                socket.close(linger=0)
        self._context.term()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def _send(self, kind: bytes, payload: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._send_all)
        self._unsent.append((kind, payload))
        if len(self._unsent) >= SEND_TOGETHER:
            self._send_all()

    def _send_all(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._inputs.closed:
            return
        for kind, payload in unsent:
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
