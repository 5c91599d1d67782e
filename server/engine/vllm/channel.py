"""A front end's way to an engine on another machine, over its hub's port (hub.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq

from server.engine.vllm.exchange import Exchange
from server.engine.vllm.hub import HEARTBEAT_MS, SILENCE_MS, Admission
from server.engine.vllm.wire import DEAD, CoreOutputs, decode

AGAIN_S = 1.0  # from a question that nobody has answered to the next


class Channel(Exchange):
    """admission: by the hub. It is lost with its connection, and is not made again: what came for whom
    meanwhile would not be known."""

    def __init__(self, admission: Admission) -> None:
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.curve_serverkey = admission.server_key.encode()
        socket.curve_publickey = admission.public_key.encode()
        socket.curve_secretkey = admission.secret_key.encode()
        socket.sndhwm = socket.rcvhwm = socket.linger = 0
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        # The hub may not listen yet, and then it is tried again; a connection that was is watched in listen.
        self._events = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        socket.connect(admission.address)
        super().__init__(socket, admission.slot + 1)  # the engine's first client is beside it

    async def reached(self) -> None:
        """Return when an engine has answered."""
        while True:
            self.ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._answered()
                    return

    def listen(self, take: Callable[[list[CoreOutputs]], None], dead: Callable[[], None]) -> None:
        def watch() -> None:
            if self._events.poll(0):
                self._stop_listening()
                dead()

        super().listen(take, dead)
        self._loop.add_reader(self._events.FD, watch)
        watch()

    def close(self) -> None:
        """Safe to call twice."""
        if not self._socket.closed:
            self._stop_listening()
            self._socket.disable_monitor()
            self._events.close(linger=0)
            self._socket.close(linger=0)
            self._context.term()

    def _stop_listening(self) -> None:
        super()._stop_listening()
        self._loop.remove_reader(self._events.FD)

    def _transmit(self, kind: bytes, payload: bytes) -> None:
        self._socket.send_multipart((kind, payload), zmq.NOBLOCK)
        # The descriptor tells of a change once, and sending may have been told.
        self._loop.call_soon(self._read_unless_closed)

    def _read_unless_closed(self) -> None:
        if not self._socket.closed:
            self._read()

    async def _answered(self) -> None:
        arrived = asyncio.Event()
        self._read = arrived.set
        self._loop.add_reader(self._socket.FD, arrived.set)
        try:
            while True:
                with contextlib.suppress(zmq.Again):
                    while (frames := self._socket.recv_multipart(zmq.NOBLOCK))[0] == DEAD or (
                        decode(frames).utility_output is None
                    ):
                        pass  # of jobs of one before this
                    self.is_answered = True
                    return
                await arrived.wait()
                arrived.clear()
        finally:
            self._read = lambda: None
            self._loop.remove_reader(self._socket.FD)
