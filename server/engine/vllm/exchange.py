"""The messages between this process and an engine: requests, and the outputs of each step."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import zmq

from server.engine.vllm.wire import (
    ABORT,
    ADD,
    DEAD,
    QUESTION,
    UTILITY,
    Answer,
    CoreOutputs,
    CoreRequest,
    Signs,
    decode,
    encode,
)
from server.errors import EngineFailed

log = logging.getLogger(__name__)

QUESTION_NUMBER = 0  # other calls have other numbers
EVENTS, READABLE = int(zmq.EVENTS), int(zmq.POLLIN)  # enums are slow to combine
SEND_TOGETHER = 16  # with more, the engine would wait for the first of them


class Exchange(ABC):
    """outputs: the socket for steps. number: of this client of the engine.

    is_answered: whether the engine has answered the last question. signs: its last answer. on_signs: called
    with each.
    """

    def __init__(self, outputs: zmq.Socket[bytes], number: int = 0) -> None:
        self.is_answered = True
        self.signs = Signs()
        self.on_signs: Callable[[Signs], None] = lambda signs: None
        self._outputs = outputs
        self._number = number
        self._unsent: list[tuple[bytes, bytes]] = []
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._num_calls = QUESTION_NUMBER
        self._loop = asyncio.get_running_loop()
        self._read: Callable[[], None] = lambda: None

    @abstractmethod
    async def reached(self) -> None:
        """Return when messages can be sent to an engine."""

    @abstractmethod
    def close(self) -> None:
        """Safe to call twice."""

    @abstractmethod
    def _transmit(self, kind: bytes, payload: bytes) -> None:
        """Send one message."""

    def listen(self, take: Callable[[list[CoreOutputs]], None], dead: Callable[[], None]) -> None:
        """Pass on the steps, from within the event loop's read: one step, or several if the engine is faster
        than this process.

        dead: called when the engine says that it has failed, or sends what cannot be decoded, because its
        receiver is then unknown. Nothing is read after that. A broad except stands here, so that no bug of
        ours or of the engine leaves jobs waiting for ever.
        """

        def read() -> None:
            try:
                is_over = self._hand_over(take)
            except Exception:
                log.exception("a message of the engine cannot be decoded")
                is_over = True
            if is_over:
                self._stop_listening()
                dead()

        self._read = read
        self._loop.add_reader(self._outputs.FD, read)
        read()

    def _hand_over(self, take: Callable[[list[CoreOutputs]], None]) -> bool:
        """Pass on everything that has come. Returns whether the engine has failed."""
        steps = []
        try:
            # The descriptor signals a change, not a state: everything that is there must be read. Asking
            # first costs less than the exception with which a read of nothing ends.
            while int(self._outputs.getsockopt(EVENTS)) & READABLE:
                frames = self._outputs.recv_multipart(zmq.NOBLOCK)
                if frames[0] == DEAD:
                    return True
                outputs = decode(frames)
                if outputs.utility_output is None:
                    steps.append(outputs)
                else:
                    self._answered(outputs.utility_output)
        finally:
            if steps:
                take(steps)
        return False

    def add(self, request: CoreRequest) -> None:
        """Begin a request.

        Requests that come at once are sent a few at a time: waking the transport's thread costs as much as a
        whole message.
        """
        self._send(ADD, encode(request))

    def abort(self, request_ids: list[str]) -> None:
        """Unknown ids are ignored."""
        self._send(ABORT, encode(request_ids))

    def ask(self) -> None:
        """Ask for a sign of life, between two steps. Call it only when the last question is answered."""
        self.is_answered = False
        self._send(UTILITY, encode((self._number, QUESTION_NUMBER, QUESTION, ())))

    async def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the engine, between two steps, and return when it is done. Raises EngineFailed if
        it failed. Never returns if the engine ends."""
        self._num_calls += 1
        number = self._num_calls
        done = self._calls[number] = self._loop.create_future()
        try:
            self._send(UTILITY, encode((self._number, number, method, arguments)))
            await done
        finally:
            del self._calls[number]

    def _answered(self, answer: Answer) -> None:
        if answer.number == QUESTION_NUMBER:
            self.is_answered, self.signs = True, answer.signs
            self.on_signs(self.signs)
            return
        done = self._calls.get(answer.number)
        if done is None or done.done():
            return
        if answer.failure is None:
            done.set_result(None)
        else:
            done.set_exception(EngineFailed(answer.failure))

    def _stop_listening(self) -> None:
        self._loop.remove_reader(self._outputs.FD)

    def _send(self, kind: bytes, payload: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._send_all)
        self._unsent.append((kind, payload))
        if len(self._unsent) >= SEND_TOGETHER:
            self._send_all()

    def _send_all(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._outputs.closed:
            return
        for kind, payload in unsent:
            self._transmit(kind, payload)
