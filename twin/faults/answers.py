"""Faults that replace the reply: each error of the contract, a proxy's page, a redirect."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.errors import (
    AccessDenied,
    FailedToAuth,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    RateLimitExceeded,
    RequestFailure,
    RequestTimeout,
    RequestTooLarge,
    RequestTooSlow,
    ServiceUnavailable,
    TokenLimitExceeded,
    UnsupportedEncoding,
)
from twin.faults.fault import Asked, Fault, Word, one_of

# Status -> its failures; the first is the default if no reason is given.
FAILURES: tuple[type[RequestFailure], ...] = (
    InvalidRequest,
    FailedToAuth,
    InvalidApiKey,
    AccessDenied,
    NotFound,
    ModelNotFound,
    MethodNotAllowed,
    RequestTooSlow,
    RequestTooLarge,
    UnsupportedEncoding,
    RateLimitExceeded,
    TokenLimitExceeded,
    InternalError,
    ServiceUnavailable,
    RequestTimeout,
)
STATUSES = tuple(dict.fromkeys(failure.status for failure in FAILURES))
WAIT_S = {429: 1, 503: 5}  # default Retry-After

PAGE = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def failure_of(kind: type[RequestFailure], asked: Asked) -> RequestFailure:
    """The failure as the server would raise it for this request."""
    if kind is InvalidRequest:
        return InvalidRequest("temperature (current value: 9) must be between 0 and 2", "temperature")
    if kind is ModelNotFound:
        return ModelNotFound(asked.model or "unknown")
    if kind is InternalError:
        return InternalError(asked.request_id)
    messages: dict[type[RequestFailure], str] = {
        FailedToAuth: "the API key is wrong or was revoked",
        InvalidApiKey: "the request needs the header `Authorization: Bearer KEY`",
        AccessDenied: f"the API key may not use the model {asked.model or 'unknown'}",
        NotFound: f"no route {asked.path}",
        MethodNotAllowed: f"{asked.method} is not allowed for {asked.path}",
        RequestTooSlow: "the request was not sent completely within 30 s (receive_timeout_s)",
        RequestTooLarge: "the body is over the limit of 1048576 bytes",
        UnsupportedEncoding: 'the body is encoded as "br"; supported are gzip and deflate',
        RateLimitExceeded: "the API key made its 60 requests per minute",
        TokenLimitExceeded: "the API key used its 10000 tokens per minute",
        ServiceUnavailable: "the server is shutting down; try another one",
        RequestTimeout: "the request took longer than this server allows (request_timeout_s)",
    }
    return kind(messages[kind])


class Status(Fault):
    """Answers with an error of the contract, with its status, body and headers."""

    name = "status"
    example = "status=429 retry_after=3"

    code: Annotated[int, one_of(*STATUSES)] = Field(description=", ".join(map(str, STATUSES)))
    retry_after: Annotated[int, Field(ge=0, le=60)] | None = Field(
        default=None, description="seconds; 0: no header; default 1 with 429, 5 with 503, none with others"
    )
    reason: str | None = Field(
        default=None,
        description="for a status with two reasons: `INVALID_API_KEY`, `MODEL_NOT_FOUND`,"
        " `TOKEN_LIMIT_EXCEEDED`",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._kind()
        return self

    def _kind(self) -> type[RequestFailure]:
        kinds = [kind for kind in FAILURES if kind.status == self.code]
        for kind in kinds:
            if self.reason in (None, kind.reason):
                return kind
        reasons = " or ".join(kind.reason for kind in kinds)
        raise ValueError(f'reason is "{self.reason}"; with {self.code} it should be {reasons}')

    def answer(self, asked: Asked) -> Response | None:
        kind = self._kind()
        if kind is MethodNotAllowed:  # the router adds its Allow header
            raise HTTPException(kind.status, headers={"allow": "POST"})
        failure = failure_of(kind, asked)
        failure.retry_after_s = WAIT_S.get(self.code, 0) if self.retry_after is None else self.retry_after
        raise failure


class Html(Fault):
    """Answers as a proxy between client and server does: an HTML page, whatever the status."""

    name = "html"
    example = "html=502"

    status: Annotated[int, Field(ge=200, le=599)] = Field(default=200, description="of the page")

    def answer(self, asked: Asked) -> Response | None:
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        title = "Sign in" if self.status == 200 else f"{self.status} {phrase}"
        return Response(PAGE.format(title=title), self.status, media_type="text/html")


class Redirect(Fault):
    """Answers with a redirect to another place, where a client that follows it gets its answer."""

    name = "redirect"
    example = "redirect=302 location=https://example.com/login"
    code: Annotated[int, one_of(301, 302, 303, 307, 308)] = Field(
        default=307, description="301, 302, 303, 307 or 308"
    )
    location: Word = Field(default="/login", description="the address")

    def answer(self, asked: Asked) -> Response | None:
        if asked.path == urlsplit(self.location).path:
            return None
        return Response(status_code=self.code, headers={"location": self.location})
