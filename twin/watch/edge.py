"""What proxy and replay share: reading a whole request, and our failures as replies.

The server's own border (server/http/border.py) would add its headers to the reply.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import RequestFailure, RequestTooLarge
from server.http.disconnect import ClientLeft
from server.http.failures import response_to
from server.http.state import State
from twin.recordings.exchange import Asked

MAX_BODY_BYTES = 64 * 1024 * 1024  # of a request, which is kept in memory while it is answered


class Edge:
    """Plain ASGI, around an application that raises RequestFailure only before the head of the reply."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state.count(+1)
        try:
            await self._app(scope, receive, send)
        except ClientLeft:
            return
        except RequestFailure as failure:
            await response_to(failure, self._state.settings.error_format)(scope, receive, send)
        finally:
            self._state.count(-1)


async def read_asked(scope: Scope, receive: Receive) -> Asked:
    """Read the whole request. Raises RequestTooLarge and ClientLeft."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"`verbatim watch` passes on bodies of up to {MAX_BODY_BYTES} bytes")
    return Asked(
        scope["method"],
        scope["raw_path"].decode("ascii", "replace"),
        scope["query_string"].decode("ascii", "replace"),
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        bytes(body),
    )
