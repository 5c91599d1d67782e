"""uvicorn's HTTP protocol, with an end to its patience, and to bytes and clients that it would not notice.

It also has one ASGI extension: to write a part of a body without being awaited. `send` is a coroutine, a
message and a dozen checks for each chunk, as much as half of a token's way. An application finds it in
scope["extensions"][WRITE], and does without where it is not there.
"""

from __future__ import annotations

import secrets
import socket
import time
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.errors import InvalidRequest, RequestFailure, RequestTooLarge, ServiceUnavailable
from server.http.connections import Connections
from server.http.failures import response_to
from server.observe.logs import log_request

WRITE = "verbatim.write"

MAX_HEAD_BYTES = 64 * 1024  # and of whatever else in a request is not its body, beyond the body's own length
MAX_IGNORED_BYTES = 64 * 1024 * 1024  # of what comes after a refusal


# Which part of a request comes next.
Part = Literal["start", "head", "body"]


class Cycle(RequestResponseCycle):
    """uvicorn's request and its reply, where it has not come whole, or is one of HTTP/1.0.

    uvicorn makes them, and has no place to say of which class: they become one of these afterwards. refusal:
    raised to who waits for the rest of the body. lingers: whether the connection goes on reading in the end.
    """

    refusal: RequestFailure | None = None
    lingers = False

    def refuse(self, failure: RequestFailure) -> None:
        self.refusal, self.keep_alive = failure, False
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self.refusal is not None:
            raise self.refusal
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body":
            if _ends_with_connection(self):
                self.expected_content_length = len(message.get("body", b""))
            if self.more_body and not self.keep_alive:
                self.keep_alive, self.lingers = True, True  # closed by on_response_complete
        await super().send(message)


def _ends_with_connection(cycle: RequestResponseCycle) -> bool:
    """Whether that is how the client knows where a body of unknown length ends: it knows no chunks."""
    return cycle.scope["http_version"] != "1.1"


def _large_head() -> RequestTooLarge:
    return RequestTooLarge(f"the request's head is over {MAX_HEAD_BYTES} bytes")


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)


class Protocol(HttpToolsProtocol):
    """One connection of all those of the process.

    uvicorn's `cycle` is the last request whose head came, which may wait for its turn; `_running` is the one
    that is answered.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._part: Part = "start"
        self._since = 0.0  # when the part that is waited for began
        self._num_surplus = 0  # bytes of the request that are not its body, less its body's
        self._num_fed = 0  # bytes that the parser works on
        self._running: RequestResponseCycle | None = None
        self._ahead = bytearray()  # what has come while a request waits for its turn
        self._refusal: RequestFailure | None = None  # to be said after the replies before it
        self._wants_upgrade = False
        self._ignores = False
        self._num_ignored = 0

    @property
    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    # --- the connection ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = time.monotonic()
        if not self._all.admit(self):
            self._answer(ServiceUnavailable("all connections are taken; try again", retry_after_s=5))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.forget(self)
        self.pipeline.clear()
        if self._running is not None and self._is_busy:  # uvicorn tells the last one alone
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._ignores:
            self._num_ignored += len(data)
            if self._num_ignored > MAX_IGNORED_BYTES:
                self.drop()
            return
        if self.pipeline:
            self._keep(data)
        else:
            self._parse(data)

    def _keep(self, data: bytes) -> None:
        """What comes while a request waits for its turn: kept for later, but read, because only reading tells
        that the client has left. No more than one request of the largest size."""
        self._ahead += data
        limit = self._all.settings.max_body_bytes + MAX_HEAD_BYTES
        if len(self._ahead) > limit:
            self._ahead.clear()
            self._fail(RequestTooLarge(f"over {limit} bytes were sent ahead of the replies to them"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport.get_extra_info("socket").family == socket.AF_UNIX:
            self._all.note_full(self, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.note_taking(self)

    def drop(self) -> None:
        self.transport.abort()

    def _linger(self) -> None:
        """Close when the client has, or soon. What comes is read and ignored: bytes that nobody reads would
        make the kernel take the reply back."""
        if self.transport.is_closing():
            return
        self._ignores = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # under TLS the client has our close alone to see
            self.transport.write_eof()
        self._all.place(self, self._all.lingering, time.monotonic())

    # --- requests, as the parser finds them ----------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        self._num_surplus += len(data)
        self._num_fed = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self._fail(InvalidRequest("the request is not valid HTTP here: CONNECT is for proxies"))
            else:
                self._parse_plainly(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, RequestTooLarge):
                self._fail(error.__context__)
                return
            what = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
            self._fail(InvalidRequest(f"the request is not valid HTTP{what}"))
            return
        if self._part != "start" and self._num_surplus > MAX_HEAD_BYTES:
            self._fail(_large_head())
            return
        self._settle()

    def _parse_plainly(self, rest: bytes) -> None:
        """There is no other protocol to change to. The parser takes what follows for one, also a body: Java's
        client asks for HTTP/2 this way with every first request. So it reads the head again, without that."""
        plain = [line for line in self.headers if line[0] not in (b"upgrade", b"connection")]
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        lines = [b"%b: %b\r\n" % line for line in plain]
        self._parse(b"".join((first, *lines, b"\r\n", rest)))

    def _fail(self, failure: RequestFailure) -> None:
        """What comes is no request that could be read on."""
        self._ignores = True
        if self._part == "start":
            self._part = "head"  # of what was to be one
        self.refuse(failure)

    def _settle(self) -> None:
        """Say what this connection waits for now, and since when."""
        if self._is_busy:
            phase = self._all.served if self._unfinished() is None else self._all.body
        else:
            phase = self._all.silent if self._part == "start" else self._all.begun
        self._all.place(self, phase, self._since)

    def _unfinished(self) -> Cycle | None:
        """The request that is worked on, if its body is still coming."""
        if self._part != "body" or self._running is not self.cycle:
            return None
        self.cycle.__class__ = Cycle
        assert isinstance(self.cycle, Cycle)
        return self.cycle

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part, self._num_surplus = "head", 0
        self._since = time.monotonic()

    def on_headers_complete(self) -> None:
        # One that has come at once: surplus counts from where it begins, which is not known within a read.
        if self._num_fed > MAX_HEAD_BYTES and _size(self.url, self.headers) > MAX_HEAD_BYTES:
            raise _large_head()
        self._wants_upgrade = self.parser.should_upgrade()
        if self._wants_upgrade:
            return
        super().on_headers_complete()
        self._part = "body"
        write = self.write_chunk
        if _ends_with_connection(self.cycle):
            self.cycle.__class__ = Cycle
            self.cycle.chunked_encoding, write = False, self.write_part
        extensions: dict[str, object] = {WRITE: write}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # uvicorn knows its own
        self._read_on()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._num_surplus -= 2 * len(body)
        self._read_on()

    def on_message_complete(self) -> None:
        if self._wants_upgrade:
            return
        super().on_message_complete()
        self._part = "start"

    def _read_on(self) -> None:
        """While a request waits for its turn uvicorn stops reading; then it does not learn that
        the client leaves."""
        if self.pipeline:
            self.flow.resume_reading()

    # --- replies -------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if isinstance(self._running, Cycle) and self._running.lingers:
            self._linger()
            return
        super().on_response_complete()  # starts the next one that waits
        if self.transport.is_closing():
            return
        self._since = time.monotonic()
        if self._refusal is not None:
            self.refuse(self._refusal)
        elif self._ahead and not self.pipeline:
            ahead, self._ahead = bytes(self._ahead), bytearray()
            self.data_received(ahead)
        else:
            self._settle()

    def refuse(self, failure: RequestFailure) -> None:
        """Answer this to the request that comes, if one has begun, after replies before it; then close."""
        self._refusal = failure
        if self._is_busy:
            if unfinished := self._unfinished():
                unfinished.refuse(failure)
        elif self._part == "head":
            log_request(id=self._answer(failure), status=failure.status, reason=failure.reason)
        elif self._part == "body":  # it has its reply
            self._linger()
        else:
            self.transport.close()

    def _answer(self, failure: RequestFailure) -> str:
        """What a request gets that never reaches the application. Returns the id that was made for it."""
        request_id = secrets.token_hex(16)
        headers = {"x-request-id": request_id, "connection": "close"}
        response = response_to(failure, self._all.settings.error_format, headers)
        lines = [*self.server_state.default_headers, *response.raw_headers]
        head = [STATUS_LINE[failure.status], *(b"%b: %b\r\n" % line for line in lines), b"\r\n"]
        self.transport.write(b"".join((*head, response.body)))
        self._linger()
        return request_id

    def write_chunk(self, part: bytes) -> bool:
        """Write a part of the running response, which has begun and has no content-length, as one chunk.

        False: the connection is full or closed, and nothing was written; `send` waits until it takes more.
        """
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    def write_part(self, part: bytes) -> bool:
        """As write_chunk, for a client that knows no chunks."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(part)
        return True
