"""uvicorn's HTTP protocol, with time limits, limits on bytes, and notice of clients that leave.

It adds ASGI extensions, which an application finds in scope["extensions"], and works without where they are
missing. WRITE: writes a part of a body without being awaited (writer.py). LEAVING: calls a function if the
client leaves (Cycle.notify). ADDRESS: returns the client's address, or "".
"""

from __future__ import annotations

import secrets
import socket
import time
from functools import partial
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from server.errors import InvalidRequest, RequestFailure, RequestTooLarge, ServiceUnavailable
from server.http.connections import Connections
from server.http.cycle import Cycle, knows_chunks
from server.http.failures import response_to
from server.http.writer import Writer
from server.observe.logs import log_request

WRITE = "verbatim.write"
LEAVING = "verbatim.leaving"
ADDRESS = "verbatim.address"

# Also limits all bytes of a request outside its body, beyond the body's own length.
MAX_HEAD_BYTES = 64 * 1024
MAX_IGNORED_BYTES = 64 * 1024 * 1024  # bytes that are read and ignored after a refusal

Part = Literal["start", "head", "body"]  # of a request, which comes next


def _large_head() -> RequestTooLarge:
    return RequestTooLarge(f"the request's head is larger than {MAX_HEAD_BYTES} bytes")


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)


class Protocol(HttpToolsProtocol):
    """One connection of a process.

    uvicorn's `cycle` is the last request whose head came, and may wait; `_running` is being answered.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._part: Part = "start"
        self._since = 0.0  # when the awaited part began
        self._num_surplus = 0  # bytes of the request outside its body, minus the length of its body
        self._num_fed = 0  # bytes that the parser is working on
        self._running: Cycle | None = None
        self._ahead = bytearray()  # bytes that came while a request waits for its turn
        self._refusal: RequestFailure | None = None  # to be sent after the replies before it
        self._wants_upgrade = False
        self._ignores = False
        self._num_ignored = 0

    @property
    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    # --- the connection ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        # As uvicorn's, without the two addresses: each takes a socket object and some calls of the kernel.
        self.connections.add(self)
        self.transport, self.flow = transport, FlowControl(transport)
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._writer = Writer(transport)
        self._since = time.monotonic()
        if not self._all.admit(self):
            self._answer(ServiceUnavailable("all connections are taken; try again", retry_after_s=5))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.forget(self)
        self.pipeline.clear()
        if self._running is not None and self._is_busy:  # uvicorn tells only the last request
            self._running.leave()

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
        """Keep bytes that come while a request waits for its turn: only reading shows that the client has
        left. At most as many as the largest request has."""
        self._ahead += data
        limit = self._all.settings.max_body_bytes + MAX_HEAD_BYTES
        if len(self._ahead) > limit:
            self._ahead.clear()
            self._fail(
                RequestTooLarge(f"more than {limit} bytes were sent before earlier requests were answered")
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writer.is_full = True
        if self.transport.get_extra_info("socket").family == socket.AF_UNIX:
            self._all.note_full(self, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writer.is_full = False
        self._all.note_taking(self)

    def _address(self) -> str:
        client = get_remote_addr(self.transport)
        return client[0] if client is not None else ""

    def drop(self) -> None:
        self.transport.abort()

    def _linger(self) -> None:
        """Close soon. Input is read and ignored: unread bytes would make the kernel discard the reply."""
        if self.transport.is_closing():
            return
        self._ignores = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # with TLS the client can only see our close
            self.transport.write_eof()
        self._all.place(self, self._all.lingering, time.monotonic())

    # --- requests, as the parser reports them ---------------------------------------------------------------

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
        """Parse the head again without its request to upgrade, which Java's client sends first, for HTTP/2:
        the parser would take what follows, even a body, for the other protocol."""
        plain = [line for line in self.headers if line[0] not in (b"upgrade", b"connection")]
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        lines = [b"%b: %b\r\n" % line for line in plain]
        self._parse(b"".join((first, *lines, b"\r\n", rest)))

    def _fail(self, failure: RequestFailure) -> None:
        """Refuse input that is not a valid request; the connection cannot continue."""
        self._ignores = True
        if self._part == "start":
            self._part = "head"  # of the refused request
        self.refuse(failure)

    def _settle(self) -> None:
        """Report what this connection waits for now, and since when."""
        if self._is_busy:
            phase = self._all.served if self._unfinished() is None else self._all.body
        else:
            phase = self._all.silent if self._part == "start" else self._all.begun
        self._all.place(self, phase, self._since)

    def _unfinished(self) -> Cycle | None:
        """The running request, if its body is still coming."""
        if self._part != "body" or self._running is not self.cycle:
            return None
        return self._running

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part, self._num_surplus = "head", 0
        self._since = time.monotonic()

    def on_headers_complete(self) -> None:
        # The whole request came at once: its beginning, from which surplus counts, is unknown within a read.
        if self._num_fed > MAX_HEAD_BYTES and _size(self.url, self.headers) > MAX_HEAD_BYTES:
            raise _large_head()
        self._wants_upgrade = self.parser.should_upgrade()
        if self._wants_upgrade:
            return
        super().on_headers_complete()
        self._part = "body"
        self.cycle.__class__ = Cycle
        assert isinstance(self.cycle, Cycle)
        write = self._writer.chunk if knows_chunks(self.scope) else self._writer.part
        extensions: dict[str, object] = {WRITE: write, LEAVING: self.cycle.notify, ADDRESS: self._address}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # uvicorn knows only its own
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
        """Read on while a request waits for its turn: uvicorn stops, and would not see the client leave."""
        if self.pipeline:
            self.flow.resume_reading()

    # --- replies -------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle  # type: ignore[assignment]  # it becomes one
        self._all.entrance.enter(partial(super()._start_asgi_task, cycle, app))

    def on_response_complete(self) -> None:
        if self._running is not None and self._running.lingers:
            self._linger()
            return
        super().on_response_complete()  # this starts the next waiting request
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
        """Answer the request that is coming, if one has begun, after earlier replies; then close."""
        self._refusal = failure
        if self._is_busy:
            if unfinished := self._unfinished():
                unfinished.refuse(failure)
        elif self._part == "head":
            log_request(id=self._answer(failure), status=failure.status, reason=failure.reason)
        elif self._part == "body":  # it was answered already
            self._linger()
        else:
            self.transport.close()

    def _answer(self, failure: RequestFailure) -> str:
        """Answer a request that never reaches the application. Returns the request id made for it."""
        request_id = secrets.token_hex(16)
        headers = {"x-request-id": request_id, "connection": "close"}
        response = response_to(failure, self._all.settings.error_format, headers)
        lines = [*self.server_state.default_headers, *response.raw_headers]
        head = [STATUS_LINE[failure.status], *(b"%b: %b\r\n" % line for line in lines), b"\r\n"]
        self.transport.write(b"".join((*head, response.body)))
        self._linger()
        return request_id
