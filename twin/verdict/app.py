"""The application with its observer, and the routes with the results:
/simulator/verdict and /simulator/requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import InvalidRequest, RequestFailure
from twin.faults.app import NAME as FAULT
from twin.verdict.attempt import Attempt
from twin.verdict.connection import WATCH
from twin.verdict.eyes import Eyes
from twin.verdict.report import as_json, as_junit, as_page, verdicts
from twin.verdict.rules import Patience

OURS = "/simulator/"  # requests below this path are not watched
VERDICT, REQUESTS = f"{OURS}verdict", f"{OURS}requests"
FORMATS = ("json", "junit", "html")
QUERY = ("format", "client", *Patience.__dataclass_fields__)


class WatchedApp:
    """Plain ASGI. border: wraps an application whose failures it words as the server does."""

    def __init__(self, app: ASGIApp, eyes: Eyes, border: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = app
        self._eyes = eyes
        self._routes = {VERDICT: border(self._verdict), REQUESTS: border(self._requests)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in self._routes:
            await self._routes[scope["path"]](scope, receive, send)
        elif scope["path"].startswith(OURS):
            await self._app(scope, receive, send)
        else:
            await self._watch(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.setdefault("extensions", {})
        connection = extensions.get(WATCH)
        headers = dict(Headers(scope=scope).items())
        attempt = self._eyes.came(
            connection.number if connection else 0,
            scope["method"],
            scope["path"],
            scope["query_string"].decode("ascii", "replace"),
            headers,
        )
        if connection is not None:
            connection.watched(attempt)
        try:
            await self._app(scope, _overheard(receive, self._eyes, attempt), send)
        finally:
            attempt.fault = extensions.get(FAULT, "")

    async def _verdict(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _asked(scope, receive)
        client = request.query_params.get("client", "")
        if request.method == "DELETE":
            self._eyes.forget(client)
        made = verdicts(self._eyes, client, _patience(request))
        kind = request.query_params.get("format") or _wanted(request.headers.get("accept", ""))
        if kind not in FORMATS:
            raise InvalidRequest(f"format must be one of {', '.join(FORMATS)}", "format")
        response: Response
        if kind == "junit":
            response = Response(as_junit(made), media_type="application/xml")
        elif kind == "html":
            response = HTMLResponse(as_page(made))
        else:
            response = JSONResponse(as_json(made))
        await response(scope, receive, send)

    async def _requests(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _asked(scope, receive)
        client = request.query_params.get("client", "")
        if request.method == "DELETE":
            self._eyes.forget(client)
        shown = [attempt.shown() for attempt in self._eyes.attempts(client)]
        await JSONResponse({"requests": shown})(scope, receive, send)


def _asked(scope: Scope, receive: Receive) -> Request:
    request = Request(scope, receive)
    if request.method not in ("GET", "DELETE"):
        raise HTTPException(405, headers={"allow": "DELETE, GET, HEAD"})
    for name in request.query_params:
        if name not in QUERY:
            raise InvalidRequest(f"unknown query parameter {name}; known are {', '.join(QUERY)}", name)
    return request


def _patience(request: Request) -> Patience:
    patience = Patience()
    for name in Patience.__dataclass_fields__:
        if (text := request.query_params.get(name)) is not None:
            kind = type(getattr(patience, name))
            try:
                patience = replace(patience, **{name: kind(text)})
            except ValueError:
                raise InvalidRequest(f"{name} (current value: {text}) must be a number", name) from None
    return patience


def _wanted(accept: str) -> str:
    if "text/html" in accept:
        return "html"
    return "junit" if "xml" in accept and "json" not in accept else "json"


def _overheard(receive: Receive, eyes: Eyes, attempt: Attempt) -> Receive:
    parts: list[bytes] = []
    is_whole = False

    async def hear() -> Message:
        nonlocal is_whole
        try:
            message = await receive()
        except RequestFailure:
            eyes.body_came(attempt, b"".join(parts))
            raise
        if message["type"] == "http.request" and not is_whole:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                is_whole = True
                eyes.body_came(attempt, b"".join(parts))
        return message

    return hear
