"""CORS: lets pages of other origins use this server, with Starlette's middleware."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.errors import InvalidRequest
from server.http.failures import response_to
from server.http.ratelimits import NAMES

EXPOSED = ("x-request-id", "retry-after", "traceresponse", *NAMES)  # response headers that a page may read


class CrossOrigin(CORSMiddleware):
    """Answers preflights, and adds CORS headers to the start of a reply; the chunks of a stream bypass it.

    The key is in a header that a page has to know, not in a cookie that a browser adds by itself. So
    credentials are off, and any header may be sent.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], error_format: str) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )
        self._error_format = error_format

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refusal = InvalidRequest(
            "this page's origin, or a header or method that it wants to send, is not allowed (cors_origins)"
        )
        return response_to(refusal, self._error_format, {"vary": response.headers["vary"]})
