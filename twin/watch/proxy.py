"""Passes requests on to another server, and its replies back as they come."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterable, Iterator

import httpx
from starlette.types import Receive, Scope, Send

from server.client.failure import ClientError
from server.client.trust import PLAIN, Trust
from server.errors import ConfigurationError, RequestFailure
from server.http.disconnect import unless_client_leaves
from twin.recordings.exchange import Asked, End, Exchange, Headers
from twin.recordings.writing import Recorder
from twin.verdict.eyes import CASE
from twin.watch.edge import read_asked

log = logging.getLogger("verbatim.watch")

# Headers of the connection, not of the message (RFC 9110, 7.6.1), and headers that each side makes itself.
HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade", "expect"),
}
OURS_TO_UPSTREAM = {"host", "content-length", CASE}
OURS_TO_CLIENT = {"date"}
CONNECT_S = 10.0
MAX_RECORDED_BYTES = 64 * 1024 * 1024


class UpstreamFailed(RequestFailure):
    status, reason, type = 502, "BAD_GATEWAY", "server_error"


class Proxy:
    """Plain ASGI. A reply may take as long as the client waits.

    Each request gets a connection of its own: one that is kept may be closed while it is used again, and that
    failure would look like the server's. trust: of the upstream's TLS. Raises ConfigurationError for files of
    it that cannot be read.
    """

    def __init__(self, upstream: httpx.URL, recorder: Recorder | None = None, trust: Trust = PLAIN) -> None:
        self._upstream = upstream
        self._recorder = recorder
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=_context(upstream, trust), limits=limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await read_asked(scope, receive)
        await unless_client_leaves(scope, receive, self._relay(asked, send))

    async def _relay(self, asked: Asked, send: Send) -> None:
        started = time.monotonic()
        response = await self._response(asked)
        headers = tuple(_passed(_pairs(response.headers.raw), OURS_TO_CLIENT))
        exchange = Exchange(asked, response.status_code, headers, time.monotonic() - started)
        num_bytes = 0
        try:
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            await send({"type": "http.response.start", "status": response.status_code, "headers": raw})
            async for part in response.aiter_raw():
                num_bytes += len(part)
                if self._recorder is not None and num_bytes <= MAX_RECORDED_BYTES:
                    exchange.parts.append((time.monotonic() - started, part))
                await send({"type": "http.response.body", "body": part, "more_body": True})
            exchange.end = End.WHOLE
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx.TransportError as error:
            # The reply stays incomplete, so that the connection is closed: the client sees what we have seen.
            exchange.end = End.CUT
            log.warning("the upstream server's reply to %s broke off: %s", asked.path, _words(error))
        finally:
            self._record(exchange, num_bytes)
            await response.aclose()

    async def _response(self, asked: Asked) -> httpx.Response:
        target = self._upstream.raw_path.rstrip(b"/") + asked.path.encode()
        if asked.query:
            target += b"?" + asked.query.encode()
        headers = list(_passed(asked.headers, OURS_TO_UPSTREAM))
        if self._recorder is not None:  # so that recordings are readable
            headers = [(name, value) for name, value in headers if name != "accept-encoding"]
            headers.append(("accept-encoding", "identity"))
        request = httpx.Request(
            asked.method,
            self._upstream.copy_with(raw_path=target),
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            content=asked.body,
            extensions={"timeout": {"connect": CONNECT_S, "read": None, "write": None, "pool": None}},
        )
        try:
            return await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise UpstreamFailed(f"the upstream server did not answer: {_words(error)}") from None

    def _record(self, exchange: Exchange, num_bytes: int) -> None:
        if self._recorder is None:
            return
        if num_bytes > MAX_RECORDED_BYTES:
            log.warning(
                "the reply to %s is not recorded, because it is too large (%d bytes)",
                exchange.asked.path,
                num_bytes,
            )
            return
        self._recorder.keep(exchange)


def upstream_of(text: str) -> httpx.URL:
    """Raises ConfigurationError for what is not the address of a server."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"--upstream {text} is not a URL: {error}.") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.userinfo:
        raise ConfigurationError(
            "--upstream must be the address of a server, without a key or a query, such as http://localhost:8000."
        )
    return url


def _context(upstream: httpx.URL, trust: Trust) -> ssl.SSLContext | bool:
    """False: without TLS no certificates are read, which takes a while."""
    try:
        return trust.context() if upstream.scheme == "https" else False
    except ClientError as error:
        raise ConfigurationError(str(error)) from None


def _pairs(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)


def _passed(headers: Headers, ours: set[str]) -> Iterator[tuple[str, str]]:
    """Headers of the message itself. `Connection` lists further headers of the connection."""
    named = {
        word.strip().lower() for name, value in headers if name == "connection" for word in value.split(",")
    }
    return ((name, value) for name, value in headers if name not in HOP | ours | named)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
