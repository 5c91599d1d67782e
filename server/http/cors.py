"""Leave for pages of other origins to ask this server, by Starlette's own middleware."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.errors import InvalidRequest
from server.http.failures import response_to
from server.http.ratelimits import NAMES

EXPOSED = ("x-request-id", "retry-after", "traceresponse", *NAMES)  # what a page may read beside the body


class CrossOrigin(CORSMiddleware):
    """Answers preflights, and adds its headers to the start of a reply: the chunks of a stream go past it.

    The key is in a header that a page has to know, not in a cookie that a browser would add: so no
    credentials, and any header may be sent.
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
            "the page's origin, or what it means to send, is not allowed here (cors_origins)"
        )
        return response_to(refusal, self._error_format, {"vary": response.headers["vary"]})
