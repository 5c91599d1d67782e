"""A failure as a response: its status, its body, and its headers."""

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
    """The response to a request that failed before the first byte of its reply. error_format: the setting."""
    headers = dict(more_headers or {})
    if failure.retry_after_s:
        headers["retry-after"] = str(failure.retry_after_s)
    if failure.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(failure, UnsupportedEncoding):
        headers["accept-encoding"] = ", ".join(ENCODINGS)
    if isinstance(failure, RequestTooLarge | RequestTooSlow):
        headers["connection"] = "close"  # the rest of the request is not read
    body = error_body(failure, nested=error_format == "nested")
    return JSONResponse(body, failure.status, headers)
