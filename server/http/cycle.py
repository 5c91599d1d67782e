"""One request on a connection, and its reply.

It does what costs uvicorn most for a short request in another way: a head whose body comes at once is written
together with it, in one call of the kernel instead of two, and who wants to know when the client leaves is
called, where a task would have to wait for an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn._types import (
    ASGIReceiveEvent,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
)
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from server.errors import RequestFailure

WITHOUT_BODY = (204, 304)


class Cycle(RequestResponseCycle):
    """uvicorn creates it without a way to choose the class, so its class is changed afterwards: what is not
    uvicorn's begins as an attribute of the class.

    refusal: raised where the rest of the body is awaited. lingers: whether the connection is read on after
    the reply. on_leave: called once if the client leaves before the reply is complete.
    """

    refusal: RequestFailure | None = None
    lingers = False
    on_leave: Callable[[], None] | None = None
    _head = b""  # of the reply, for a moment: it waits for the body
    _ends_with_connection = False

    def refuse(self, failure: RequestFailure) -> None:
        self.refusal, self.keep_alive = failure, False
        self.message_event.set()

    def notify(self, on_leave: Callable[[], None] | None) -> None:
        """Call this when the client leaves, or now if it has left. None: nobody wants to know any more."""
        self.on_leave = on_leave
        if on_leave is None:
            return
        self.flow.resume_reading()  # only reading shows that it has left
        if self.disconnected or self.response_complete:
            self.leave()

    def leave(self) -> None:
        """The client has left."""
        self.disconnected = True
        self.message_event.set()
        if (on_leave := self.on_leave) is not None:
            self.on_leave = None
            on_leave()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self.refusal is not None:
            raise self.refusal
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._send_part(message)
        elif message["type"] == "http.response.start" and not self.response_started:
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._head_of(message)
            asyncio.get_running_loop().call_soon(self._send_head)
        else:
            raise RuntimeError(f"{message['type']} was sent out of turn")

    def _head_of(self, message: HTTPResponseStartEvent) -> bytes:
        """The status line and the headers. Notes how the body ends: after its length, with its last chunk, or
        with the connection, for a client that does not know chunks."""
        status, lines, says_close, has_length = message["status"], list[bytes](), False, False
        for name, value in (*self.default_headers, *message.get("headers", ())):
            if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
                raise RuntimeError(f"the header {name!r} of a reply is not valid")
            name = name.lower()
            if name == b"content-length":
                self.expected_content_length, has_length = int(value), True
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive, says_close = False, True
            lines.append(b"%b: %b\r\n" % (name, value))
        if not (has_length or self.scope["method"] == "HEAD" or status in WITHOUT_BODY):
            self.chunked_encoding = knows_chunks(self.scope)
            if self.chunked_encoding:
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._ends_with_connection, self.keep_alive = True, False
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        return b"".join((STATUS_LINE[status], *lines, b"\r\n"))

    def _send_head(self) -> None:
        """The body did not come at once: the head goes ahead."""
        if self._head and not self.transport.is_closing():
            head, self._head = self._head, b""
            self.transport.write(head)

    def _send_part(self, message: HTTPResponseBodyEvent) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif not self._ends_with_connection:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("the body of a reply has another length than its content-length")
        head, self._head = self._head, b""
        if head or body:
            self.transport.write(head + body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.response_complete, self.on_leave = True, None
        self.message_event.set()
        if self.more_body and not self.keep_alive:
            self.lingers = True  # on_response_complete closes the connection
        elif not self.keep_alive:
            self.transport.close()
        self.on_response()


def knows_chunks(scope: HTTPScope) -> bool:
    """Whether the client can read a body that comes in chunks."""
    return scope["http_version"] == "1.1"
