"""A front end's connection to an engine on another machine, over its hub's port (hub.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from server.engine.vllm.exchange import Exchange
from server.engine.vllm.hub import GREETING_MS, HEARTBEAT_MS, SILENCE_MS, Admission
from server.engine.vllm.wire import DEAD, CoreOutputs, decode
from server.errors import EngineFailed

AGAIN_S = 1.0  # seconds until an unanswered question is asked again
STATE_S = 2.0  # seconds between two questions for the engine's state
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH  # then the connection ends
ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class Channel(Exchange):
    """admission: from the hub. The channel ends with its connection and does not reconnect: messages may have
    been lost meanwhile."""

    def __init__(self, admission: Admission) -> None:
        self._address = admission.address
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.curve_serverkey = admission.server_key.encode()
        socket.curve_publickey = admission.public_key.encode()
        socket.curve_secretkey = admission.secret_key.encode()
        socket.sndhwm = socket.rcvhwm = socket.linger = 0
        socket.connect_timeout = socket.handshake_ivl = GREETING_MS
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        socket.reconnect_ivl = -1  # never
        self._events = socket.get_monitor_socket(REFUSED | ENDS)
        socket.connect(admission.address)
        self._asking: asyncio.TimerHandle | None = None
        super().__init__(socket, admission.slot + 1)  # number 0 is the engine's client on its own machine

    async def reached(self) -> None:
        """Return when an engine has answered. Raises EngineFailed if it cannot be reached."""
        arrived = asyncio.Event()
        self._read = arrived.set
        for descriptor in (self._socket.FD, self._events.FD):
            self._loop.add_reader(descriptor, arrived.set)
        try:
            while True:
                self.ask()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        while not self._is_told():
                            await arrived.wait()
                            arrived.clear()
                        return
        finally:
            self._stop_listening()

    def listen(self, take: Callable[[list[CoreOutputs]], None], dead: Callable[[], None]) -> None:
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:  # a dying engine may end its hub as well
                is_over = True
                self._stop_listening()
                dead()

        def watch() -> None:
            if self._events.poll(0):
                end()

        self._loop.add_reader(self._events.FD, watch)
        self._asking = self._loop.call_later(STATE_S, self._ask_again)
        super().listen(take, end)
        watch()

    def close(self) -> None:
        """Safe to call twice."""
        if not self._socket.closed:
            self._stop_listening()
            self._socket.disable_monitor()
            self._events.close(linger=0)
            self._socket.close(linger=0)
            self._context.term()

    def _ask_again(self) -> None:
        """Ask for the engine's state now and then, for the metrics (EngineStats.correct)."""
        if self.is_answered:
            self.ask()
        self._asking = self._loop.call_later(STATE_S, self._ask_again)

    def _stop_listening(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        super()._stop_listening()
        self._loop.remove_reader(self._events.FD)
        self._read = lambda: None

    def _transmit(self, kind: bytes, payload: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # the connection is lost, which is noticed elsewhere
            self._socket.send_multipart((kind, payload), zmq.NOBLOCK)
        # The descriptor signals a change once, and sending may have consumed the signal.
        self._loop.call_soon(self._read_unless_closed)

    def _read_unless_closed(self) -> None:
        if not self._socket.closed:
            self._read()

    def _is_told(self) -> bool:
        """Whether the engine has answered. Raises EngineFailed if it never will."""
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
                if frames[0] == DEAD:
                    raise EngineFailed(f"the connection to the engine at {self._address} was cut off")
                # Steps are for an earlier client of this slot.
                if decode(frames).utility_output is not None:
                    self.is_answered = True
                    return True
        if self._events.poll(0):
            refused = parse_monitor_message(self._events.recv_multipart())["event"] == REFUSED
            how = "uses outdated keys" if refused else "was refused or lost"
            raise EngineFailed(f"the connection to the engine at {self._address} {how}")
        return False
