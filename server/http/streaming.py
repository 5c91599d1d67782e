"""A streamed reply: writes bytes as deltas come, and handles connections that do not take them.

While the connection is full, the deltas of each choice are merged: a slow reader gets fewer and larger
chunks, takes no more memory than its own text, and delays nobody else. The kernel cuts off a client that
reads nothing for a while (process/port.py); it then counts as a client that has left.

While a stream waits for an engine, because its engine was lost or its model is not loaded, it sends comments
that state the progress, so that proxies keep the connection open.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from server.errors import RequestFailure
from server.generation.candidates import Generation
from server.generation.outputs import Delta, merged
from server.http.disconnect import unless_client_leaves
from server.http.eager import Rest, begin
from server.http.gathering import Gathering
from server.http.protocol import WRITE
from server.http.sse import DONE, HEADERS, Stream, comment, error_frame
from server.http.state import exchange_of

ALIVE_S = 3.0  # seconds between two comments

RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class EventStream:
    """Starts a generation and writes its deltas, with one write per batch, as the engine's outputs are
    handled. The request's own task only waits for the end.

    deadline: of the loop's clock. A failure before the first byte is raised, and gets its own HTTP status.
    interval, interval_ms: as Gathering's.
    """

    __slots__ = (
        *("_catching_up", "_deadline", "_gathering", "_generation", "_held", "_is_started"),
        *("_send", "_send_body", "_sign", "_stream", "_write"),
    )

    def __init__(
        self,
        generation: Generation,
        stream: Stream,
        deadline: float | None,
        interval: int = 1,
        interval_ms: float = 0.0,
    ) -> None:
        self._generation = generation
        self._stream = stream
        self._deadline = deadline
        self._is_started = False
        self._held: list[Delta] = []  # deltas held while the connection is full
        gathers = interval > 1 or interval_ms > 0
        self._gathering = Gathering(self._take, interval, interval_ms) if gathers else None
        self._catching_up: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        # The start passes every layer; the rest goes straight to the server.
        self._send, self._send_body = send, exchange.send
        self._write = scope.get("extensions", {}).get(WRITE, _cannot_write)
        self._sign = asyncio.get_running_loop().call_later(ALIVE_S, self._stay_alive)
        take = self._take if self._gathering is None else self._gathering.push
        try:
            await unless_client_leaves(scope, receive, self._generation.start(take), self._deadline)
            if self._catching_up is not None:
                await unless_client_leaves(scope, receive, self._catching_up)
        except RequestFailure as failure:
            self._let_go()
            if not self._is_started:
                raise
            exchange.reason = failure.reason
            self._generation.close()
            await self._fail(scope, receive, failure)
        finally:
            self._sign.cancel()
            if self._gathering is not None:
                self._gathering.close()
                self._gathering = None  # it refers to this
            self._generation.close()
            if self._catching_up is not None:
                self._catching_up.cancel()

    def _take(self, deltas: list[Delta]) -> None:
        if self._catching_up is not None and not self._catching_up.done():
            self._held = merged([*self._held, *deltas])
            return
        frames = self._stream.frames(deltas)
        is_amid = self._is_started and not self._stream.is_over
        if not is_amid or (frames and not self._write(frames)):
            self._put(frames)

    def _put(self, frames: bytes) -> None:
        """Write them with `send`: the first and the last ones, and what the connection does not take now."""
        if not self._is_started:
            self._is_started = True
            rest = begin(self._start(frames))
        else:
            rest = begin(self._send_body(_body(frames, more=not self._stream.is_over)))
        if rest is not None:  # the connection is full
            self._catching_up = asyncio.ensure_future(self._catch_up(rest))

    def _stay_alive(self) -> None:
        """Send a comment while there is nothing else to send."""
        self._sign = asyncio.get_running_loop().call_later(ALIVE_S, self._stay_alive)
        is_full = self._catching_up is not None and not self._catching_up.done()
        if self._generation.is_resuming and not is_full:
            self._let_go()
            self._put(comment(self._generation.progress))

    def _let_go(self) -> None:
        """Flush gathered deltas when no more may come soon."""
        if self._gathering is not None:
            self._gathering.flush()

    async def _start(self, frames: bytes) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": [*RAW_HEADERS]})
        await self._send_body(_body(frames, more=not self._stream.is_over))

    async def _catch_up(self, rest: Rest) -> None:
        """Wait until the connection takes more, then write what has come meanwhile."""
        await rest
        while self._held:
            deltas, self._held = self._held, []
            if frames := self._stream.frames(deltas):
                await self._send_body(_body(frames, more=not self._stream.is_over))

    async def _fail(self, scope: Scope, receive: Receive, failure: RequestFailure) -> None:
        if self._catching_up is not None:
            await unless_client_leaves(scope, receive, self._catching_up)
        if self._stream.is_over:  # the held deltas were the last ones
            return
        last = _body(error_frame(failure) + DONE, more=False)
        await unless_client_leaves(scope, receive, self._send_body(last))


def _cannot_write(part: bytes) -> bool:
    """For servers without the extension, such as those of tests."""
    return False


def _body(frames: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": frames, "more_body": more}
