"""A failure as a response: its status, its body, and the headers that go with it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from server.errors import (
    RequestFailure,
    RequestTooLarge,
    RequestTooSlow,
    UnsupportedEncoding,
    error_body,
)

ENCODINGS = ("gzip", "deflate")  # of bodies (body.py)


def response_to(
    failure: RequestFailure, error_format: str, more_headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """What a client gets whose request failed before the reply's first byte. error_format: the setting."""
    headers = dict(more_headers or {})
    if failure.retry_after_s:
        headers["retry-after"] = str(failure.retry_after_s)
    if failure.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(failure, UnsupportedEncoding):
        headers["accept-encoding"] = ", ".join(ENCODINGS)
    if isinstance(failure, RequestTooLarge | RequestTooSlow):
        headers["connection"] = "close"  # the rest of the request is not waited for
    body = error_body(failure, nested=error_format == "nested")
    return JSONResponse(body, failure.status, headers)
