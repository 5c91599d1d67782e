"""The application with faults around it, and the route that sets them: /simulator/faults.

A request without the header costs nothing while there are no rules.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator

import orjson
from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.keys import HEADER as BEARER
from server.errors import InvalidRequest, RequestFailure
from server.http.body import read_body
from server.http.border import Border, request_id_of
from server.http.disconnect import ClientLeft
from server.http.state import State
from twin.faults.catalog import parse
from twin.faults.connection import SUFFER
from twin.faults.fault import Asked, Fault
from twin.faults.rules import Faults, rules_of

HEADER = "X-Verbatim-Fault"
OURS = "/simulator/"  # no faults below this path
PATH = f"{OURS}faults"
NAME = "verbatim.fault"  # key in scope["extensions"]: the fault of a request, for twin/verdict
METHODS = "DELETE, GET, HEAD, PUT"

log = logging.getLogger("verbatim.faults")


class FaultyApp:
    """Plain ASGI. Chooses a request's fault, and tells the connection (connection.py) or answers itself,
    through a border, so that the answer has the usual form."""

    def __init__(self, app: ASGIApp, faults: Faults, state: State) -> None:
        self._app = app
        self._faults = faults
        self._state = state
        self._control = Border(self._answer_control, state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == PATH:
            await self._control(scope, receive, send)
        elif scope["path"].startswith(OURS):
            await self._app(scope, receive, send)
        elif self._faults.rules or HEADER in Headers(scope=scope):
            request_id = request_id_of(scope)
            named = {**scope, "headers": [(b"x-request-id", request_id.encode()), *scope["headers"]]}
            await self._with_fault(named, receive, send, request_id)
        else:
            await self._app(scope, receive, send)

    async def _with_fault(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        body, app = Replayed(receive), self._app
        asked = await self._asked(Request(scope, body.first), request_id)
        try:
            fault = self._chosen(scope, asked)
            if fault is not None:
                log.info("request %s gets the fault %s", request_id, fault)
                scope["extensions"][NAME] = str(fault)
                if response := fault.answer(asked):
                    app = Border(response, self._state)
                else:
                    scope["extensions"][SUFFER](fault, asked)
        except (RequestFailure, HTTPException) as refusal:
            app = Border(_raising(refusal), self._state)
        await app(scope, body.again, send)

    def _chosen(self, scope: Scope, asked: Asked) -> Fault | None:
        """The fault from the header, else from a rule."""
        text = Headers(scope=scope).get(HEADER)
        if text is None:
            return self._faults.choose(asked)
        try:
            return parse(text)
        except ValueError as error:
            raise InvalidRequest(f"{HEADER}: {error}", HEADER) from None

    async def _asked(self, request: Request, request_id: str) -> Asked:
        """What rules can match of a request. A body that cannot be read is ignored here; the application
        reports it."""
        try:
            content = orjson.loads(await read_body(request, self._state.settings.max_body_bytes))
        except (RequestFailure, ClientLeft, ValueError):
            content = None
        fields = content if isinstance(content, dict) else {}
        prompt = fields.get("prompt")
        prompts = prompt if isinstance(prompt, list) else [prompt]
        return Asked(
            method=request.method,
            path=request.url.path,
            request_id=request_id,
            keys=tuple(self._keys(request.headers.get("authorization"))),
            model=str(fields.get("model", "")),
            prompts=tuple(one for one in prompts if isinstance(one, str)),
            stream=fields.get("stream") is True,
        )

    def _keys(self, authorization: str | None) -> Iterator[str]:
        if match := BEARER.fullmatch(authorization or ""):
            yield match[1]
        with contextlib.suppress(RequestFailure):
            yield self._state.keyring.authenticate(authorization).name

    async def _answer_control(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method == "PUT":
            body = await read_body(request, self._state.settings.max_body_bytes)
            try:
                content = orjson.loads(body)
            except ValueError as error:
                raise InvalidRequest(f"the body is not valid JSON: {error}") from None
            self._faults.set(rules_of(content))
        elif request.method == "DELETE":
            self._faults.clear()
        elif request.method != "GET":
            raise HTTPException(405, headers={"allow": METHODS})
        await JSONResponse(self._faults.shown())(scope, receive, send)


def _raising(refusal: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise refusal

    return app


class Replayed:
    """Replays a request's messages, which were read here, for the application: also that it timed out, or is
    too large."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._heard: deque[Message | RequestFailure] = deque()

    async def first(self) -> Message:
        try:
            message = await self._receive()
        except RequestFailure as failure:
            self._heard.append(failure)
            raise
        self._heard.append(message)
        return message

    async def again(self) -> Message:
        if not self._heard:
            return await self._receive()
        heard = self._heard.popleft()
        if isinstance(heard, RequestFailure):
            raise heard
        return heard
