"""The border between the application and HTTP: request ids, errors as bodies or frames, log and metrics.

The two broad excepts of the server stand here: one before the reply has begun, one after.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.disconnect import ClientLeft, unless_client_leaves
from server.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestFailure,
    RequestTooLarge,
    error_body,
)
from server.logs import log_request
from server.sse import DONE, HEADERS, error_frame
from server.state import Exchange, State

log = logging.getLogger(__name__)

MAX_REQUEST_ID_CHARS = 128
CLIENT_LEFT = 499  # nginx's number, for the log alone: nobody is there to read it


class Border:
    """The outermost layer, as plain ASGI: nothing else is between an engine's output and `send`."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(_request_id(scope))
        scope["exchange"] = exchange

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.first_byte = message["status"], time.monotonic()
                MutableHeaders(scope=message)["x-request-id"] = exchange.request_id
            await send(message)

        self.state.in_flight += 1
        try:
            await self.app(scope, receive, send_with_id)
        except ClientLeft:
            exchange.status, exchange.reason = CLIENT_LEFT, "CLIENT_LEFT"
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if exchange.first_byte is None:
                failure = InternalError(exchange.request_id)
                await failure_response(self.state, scope, failure)(scope, receive, send_with_id)
        finally:
            self.state.in_flight -= 1
            self._note(scope, exchange)

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        path = scope["path"]
        if path.endswith("/completions"):
            self.state.record(exchange)
        elif path in ("/health", "/ready", "/metrics"):
            return  # probes would fill the log
        usage = exchange.usage
        log_request(
            id=exchange.request_id,
            method=scope["method"],
            path=path,
            status=exchange.status,
            reason=exchange.reason,
            key=exchange.key,
            model=exchange.model,
            user=exchange.user,
            prompt_tokens=usage and usage.prompt_tokens,
            completion_tokens=usage and usage.completion_tokens,
            seconds=time.monotonic() - exchange.started,
        )


class EventStream(Response):
    """Frames as they come, one write a batch. close: ends what makes them; called in any case."""

    def __init__(self, frames: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._frames = frames
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._write(exchange_of(scope), send))
        finally:
            self._close()

    async def _write(self, exchange: Exchange, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for frames in self._frames:
                await send({"type": "http.response.body", "body": frames, "more_body": True})
        except RequestFailure as failure:
            await self._fail(exchange, failure, send)
        except Exception:
            log.exception("request %s failed in its stream", exchange.request_id)
            await self._fail(exchange, InternalError(exchange.request_id), send)
        await send({"type": "http.response.body", "body": b""})

    async def _fail(self, exchange: Exchange, failure: RequestFailure, send: Send) -> None:
        exchange.reason = failure.reason
        await send({"type": "http.response.body", "body": error_frame(failure) + DONE, "more_body": True})


def failure_response(state: State, scope: Scope, failure: RequestFailure) -> Response:
    """A failure before the reply's first byte."""
    exchange_of(scope).reason = failure.reason
    headers = {}
    if failure.retry_after_s:
        headers["retry-after"] = str(failure.retry_after_s)
    if failure.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(failure, RequestTooLarge):
        headers["connection"] = "close"  # the rest of the body is not waited for
    body = error_body(failure, nested=state.settings.error_format == "nested")
    return JSONResponse(body, failure.status, headers)


async def handle_failure(request: Request, failure: Exception) -> Response:
    """The application's handler of RequestFailure."""
    assert isinstance(failure, RequestFailure)
    return failure_response(request.app.state.server, request.scope, failure)


async def handle_router(request: Request, error: Exception) -> Response:
    """The application's handler of what the router itself refuses: the path, or the method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        failure: RequestFailure = MethodNotAllowed(f"{request.method} is not a method of {request.url.path}")
    elif error.status_code == 404:
        failure = NotFound(f"there is nothing at {request.url.path}")
    else:
        failure = InvalidRequest(str(error.detail))
    response = failure_response(request.app.state.server, request.scope, failure)
    response.headers.update(error.headers or {})
    return response


def exchange_of(scope: Scope) -> Exchange:
    exchange: Exchange = scope["exchange"]
    return exchange


def _request_id(scope: Scope) -> str:
    """The client's own if it is at most 128 printable ASCII characters, else a new one."""
    for name, value in scope["headers"]:
        if (
            name == b"x-request-id"
            and 0 < len(value) <= MAX_REQUEST_ID_CHARS
            and all(0x20 <= byte < 0x7F for byte in value)
        ):
            return str(value, "ascii")
    return uuid.uuid4().hex
