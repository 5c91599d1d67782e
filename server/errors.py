"""Every failure this server knows, and the face each one has over HTTP.

    Failure
    ├── ConfigurationError          the server cannot start; the message says what to change
    ├── EngineFailed                an engine did not start; the message is its own reason
    └── RequestFailure              one request cannot be answered
        ├── InvalidRequest          400  the body breaks a rule of the contract
        ├── InvalidApiKey           401  no Authorization header, or not "Bearer KEY"
        ├── FailedToAuth            401  a wrong, revoked or expired key
        ├── AccessDenied            403  the key may not do this, or not with this model
        ├── NotFound                404  no such route
        │   └── ModelNotFound       404  no such model
        ├── MethodNotAllowed        405
        ├── RequestTooSlow          408  the request was not sent whole in time
        ├── RequestTooLarge         413  the body is over the configured size
        ├── UnsupportedEncoding     415  the body is compressed in a way that is not known here
        ├── RateLimitExceeded       429  requests per minute of the key
        │   └── TokenLimitExceeded  429  tokens per minute of the key
        ├── InternalError           500  our fault
        │   └── EngineDeathsError   500  engines died while they worked on it, the last one on it alone
        ├── ServiceUnavailable      503  loading, queue full, draining, engine died
        └── RequestTimeout          504  the request's deadline passed

Failures are raised, never returned. Anything else that escapes a handler becomes an InternalError at one
named border (border.py), with its traceback in the log and none of it in the reply.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Failure(Exception):  # noqa: N818  # its subclasses say what it is
    """A failure with a message meant for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigurationError(Failure):
    """The configuration, the weights or the machine do not allow a start. The message says what to do."""


class EngineFailed(Failure):
    """An engine did not start; another try may succeed. The message is the engine's own reason,
    in one line."""


class RequestFailure(Failure):
    """A request that cannot be answered.

    status: HTTP status. reason: the hosted service's name for it. type: OpenAI's name for it. metadata:
    strings by name, shown in the body. retry_after_s: seconds for the Retry-After header, 0 for none.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "INTERNAL_ERROR"
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        param: str | None = None,
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.metadata = metadata or {}
        self.param = param
        self.retry_after_s = min(retry_after_s, 60)


class InvalidRequest(RequestFailure):
    status, reason, type = 400, "INVALID_REQUEST_BODY", "invalid_request_error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, metadata={"field": field} if field else None, param=field)


class InvalidApiKey(RequestFailure):
    status, reason, type = 401, "INVALID_API_KEY", "authentication_error"


class FailedToAuth(RequestFailure):
    status, reason, type = 401, "FAILED_TO_AUTH", "authentication_error"


class AccessDenied(RequestFailure):
    status, reason, type = 403, "ACCESS_DENY", "permission_error"


class NotFound(RequestFailure):
    status, reason, type = 404, "NOT_FOUND", "not_found_error"


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 200 else model[:200] + "…"
        super().__init__(
            f"model: {shown} not found", metadata={"reason": f"model: {shown} not found"}, param="model"
        )


class MethodNotAllowed(RequestFailure):
    status, reason, type = 405, "METHOD_NOT_ALLOWED", "invalid_request_error"


class RequestTooSlow(RequestFailure):
    status, reason, type = 408, "TIMEOUT", "timeout_error"


class RequestTooLarge(RequestFailure):
    status, reason, type = 413, "REQUEST_TOO_LARGE", "invalid_request_error"


class UnsupportedEncoding(RequestFailure):
    status, reason, type = 415, "UNSUPPORTED_ENCODING", "invalid_request_error"


class RateLimitExceeded(RequestFailure):
    status, reason, type = 429, "RATE_LIMIT_EXCEEDED", "rate_limit_error"


class TokenLimitExceeded(RateLimitExceeded):
    reason = "TOKEN_LIMIT_EXCEEDED"


class InternalError(RequestFailure):
    """A bug of ours. The client's message has only the request's id. cause: what the log says."""

    def __init__(self, request_id: str, cause: str = "") -> None:
        self.cause = cause
        super().__init__(f"internal error; the server's log has the details under request id {request_id}")


class EngineDeathsError(InternalError):
    """num_deaths: engines that died while they worked on it."""

    def __init__(self, request_id: str, num_deaths: int) -> None:
        super().__init__(request_id)
        self.message = (
            f"the engine died {num_deaths} times while it worked on this request, so the request is not"
            f" tried again; the server's log has the details under request id {request_id}"
        )


class ServiceUnavailable(RequestFailure):
    status, reason, type = 503, "SERVICE_NOT_AVAILABLE", "service_unavailable_error"


class RequestTimeout(RequestFailure):
    status, reason, type = 504, "TIMEOUT", "timeout_error"


def error_body(failure: RequestFailure, *, nested: bool = True) -> dict[str, Any]:
    """The hosted service's flat envelope and, beside it when `nested`, the object that other SDKs read."""
    body: dict[str, Any] = {
        "code": failure.status,
        "reason": failure.reason,
        "message": failure.message,
        "metadata": failure.metadata,
    }
    if nested:
        body["error"] = {
            "message": failure.message,
            "type": failure.type,
            "param": failure.param,
            "code": failure.reason,
        }
    return body
