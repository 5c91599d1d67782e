"""The border between the application and HTTP: request ids, errors as bodies, log and metrics.

A broad except stands here, for failures before a generation has begun. For later ones, one
stands in generation/candidates.py.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.config.settings import Settings
from server.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestFailure,
)
from server.http.cors import CrossOrigin
from server.http.disconnect import ClientLeft
from server.http.failures import response_to
from server.http.following import Following
from server.http.page import FILES
from server.http.protocol import ADDRESS
from server.http.ratelimits import headers_of
from server.http.records import CLIENT_LEFT, note
from server.http.spans import span_of
from server.http.state import ADMIN_PORT, Exchange, State, exchange_of
from server.observe.logs import log_request

if TYPE_CHECKING:
    from server.observe.tracing import Tracer

log = logging.getLogger(__name__)

# The hosted service answers under each of the first four; /v1 is for everyone else. Internally, all become
# the first.
PREFIXES = ("/v3/openai", "/v3/openai/v1", "/openai/v1", "/openai", "/v1")
API = PREFIXES[0]
PREFIX = re.compile(f"({'|'.join(PREFIXES)})(?=/(?:completions|models|tokenize|detokenize)(?:/|$))")
WORK = tuple(f"{API}/{name}" for name in ("completions", "tokenize", "detokenize"))
DETAILS = "/status/details"
FOR_OPERATORS = ("/metrics", "/status", DETAILS)
BARE = ("/tokenize", "/detokenize")  # vLLM serves them there

MAX_REQUEST_ID_CHARS = 128


class Border:
    """The outermost layer, as plain ASGI, and the only one around the routes."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self.state = state
        settings = state.settings
        self._inside: ASGIApp = self._answer
        if settings.cors_origins:
            self._inside = CrossOrigin(self._answer, settings.cors_origins, settings.error_format)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(request_id_of(scope), scope["path"], send)
        scope["exchange"] = exchange
        if self.state.tracer is not None:
            exchange.following = self._follow(scope)
        if (journal := self.state.journal) is not None and journal.settings.client_address:
            exchange.client = address_of(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.first_byte = message["status"], time.monotonic()
                more = [("x-request-id", exchange.request_id), *headers_of(exchange.allowance)]
                if exchange.following is not None:
                    more.append(("traceresponse", exchange.following.trace.response))
                coded = ((name.encode("ascii"), value.encode("latin-1")) for name, value in more)
                message["headers"] = [*message.get("headers", ()), *coded]
            await send(message)

        self.state.count(+1)
        try:
            await self._inside(scope, receive, send_with_id)
        finally:
            self.state.count(-1)
            exchange.allowance.end()
            self._note(scope, exchange)
            if exchange.following is not None and self.state.tracer is not None:
                self._trace(scope, exchange, exchange.following, self.state.tracer)
            # The connection keeps the scope until its next request, and this would keep prompts and texts.
            del scope["exchange"]
            scope.pop("extensions", None)  # they refer to the connection, which refers to the scope: a circle

    def _follow(self, scope: Scope) -> Following | None:
        """The trace of a request, if it is traced. Only routes of the API are traced, not
        probes and pages."""
        assert self.state.tracer is not None, "asked for"
        path = _routed(scope)["path"]
        match = PREFIX.match(path)
        trace = self.state.tracer.begin(scope["headers"]) if match else None
        if match is None or trace is None:
            return None
        return Following(trace, API + "/" + path[match.end() :].split("/")[1])

    @staticmethod
    def _trace(scope: Scope, exchange: Exchange, following: Following, tracer: Tracer) -> None:
        """Send the spans of a request that has ended. A broad except stands here: a bug in tracing costs a
        trace, not a reply."""
        try:
            with_text = tracer.settings.record_text
            span = span_of(exchange, following, scope, time.monotonic(), with_text=with_text)
            tracer.end(following.trace, span)
        except Exception:
            log.exception("the trace of request %s could not be recorded", exchange.request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, or answer with the error if it fails."""
        exchange = exchange_of(scope)
        try:
            routed = _routed(scope)
            check_port(routed, self.state.settings)
            await self.app(routed, receive, send)
            return
        except ClientLeft:
            exchange.status, exchange.reason = CLIENT_LEFT, "CLIENT_LEFT"
            return
        except RequestFailure as failure:
            response = self._failed(exchange, failure)
        except HTTPException as error:
            refusal = of_router(error, scope["method"], exchange.path)
            response = self._failed(exchange, refusal, _with_head(error.headers or {}))
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if exchange.first_byte is not None:
                return
            response = self._failed(exchange, InternalError(exchange.request_id))
        await response(scope, receive, send)

    def _failed(
        self, exchange: Exchange, failure: RequestFailure, more_headers: Mapping[str, str] | None = None
    ) -> Response:
        """Answer a failure before the first byte of the reply."""
        exchange.reason = failure.reason
        return response_to(failure, self.state.settings.error_format, more_headers)

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        path = exchange.path
        if path.endswith("/completions"):
            self.state.record(exchange)
            if self.state.journal is not None:
                note(self.state.journal, exchange)
        elif path in ("/health", "/ready", "/metrics") or path.startswith(FILES):
            return  # probes would fill the log, and opening a page would add twenty lines
        elif path == DETAILS and exchange.status == 200:
            return  # the status page reads it every two seconds
        usage = exchange.usage
        log_request(
            id=exchange.request_id,
            method=scope["method"],
            path=path,
            status=exchange.status,
            reason=exchange.reason,
            key=exchange.key.name,
            model=exchange.model,
            user=exchange.user,
            prompt_tokens=usage and usage.prompt_tokens,
            completion_tokens=usage and usage.completion_tokens,
            seconds=time.monotonic() - exchange.started,
            trace=exchange.following and exchange.following.trace.id,
        )


def check_port(scope: Scope, settings: Settings) -> None:
    """Raise NotFound if the path is only served on the other port. Guarded does so for the admin routes."""
    path = scope["path"]
    if settings.admin is None:
        return
    if ADMIN_PORT in scope:
        if path in WORK:
            raise NotFound(f"{path} is not served on the admin port")
    elif path in FOR_OPERATORS:
        raise NotFound(f"{path} is only served on the admin port (admin in models.yaml)")


def _routed(scope: Scope) -> Scope:
    """The request as the routes see it: with the first prefix, and GET instead of HEAD; uvicorn leaves out
    the body of a reply to HEAD."""
    path, method = scope["path"], scope["method"]
    if match := PREFIX.match(path):
        path = API + path[match.end() :]
    elif path in BARE:
        path = API + path
    return {**scope, "path": path, "method": "GET" if method == "HEAD" else method}


def _with_head(headers: Mapping[str, str]) -> dict[str, str]:
    """Add HEAD to the allowed methods where GET is allowed."""
    return {name: "GET, HEAD" if value == "GET" else value for name, value in headers.items()}


def of_router(error: HTTPException, method: str, path: str) -> RequestFailure:
    """The failure for a path or a method that the router refuses."""
    if error.status_code == 405:
        return MethodNotAllowed(f"{method} is not allowed for {path}")
    if error.status_code == 404:
        return NotFound(f"no route {path}")
    return InvalidRequest(str(error.detail))


def address_of(scope: Scope) -> str:
    """The client's address; "": unknown."""
    ask: Callable[[], str] | None = scope.get("extensions", {}).get(ADDRESS)
    if ask is not None:
        return ask()
    return str(scope["client"][0]) if scope.get("client") else ""


def request_id_of(scope: Scope) -> str:
    """The client's own request id if it is at most 128 printable ASCII characters, else a new one."""
    for name, value in scope["headers"]:
        if (
            name == b"x-request-id"
            and 0 < len(value) <= MAX_REQUEST_ID_CHARS
            and all(0x20 <= byte < 0x7F for byte in value)
        ):
            return str(value, "ascii")
    return secrets.token_hex(16)
