from __future__ import annotations

import pytest

from server import errors
from server.errors import InvalidRequest, RateLimitExceeded, RequestFailure, error_body

# contract.md, "Errors"
TABLE = {
    (400, "INVALID_REQUEST_BODY"),
    (401, "INVALID_API_KEY"),
    (401, "FAILED_TO_AUTH"),
    (403, "ACCESS_DENY"),
    (404, "MODEL_NOT_FOUND"),
    (404, "NOT_FOUND"),
    (405, "METHOD_NOT_ALLOWED"),
    (408, "TIMEOUT"),
    (413, "REQUEST_TOO_LARGE"),
    (415, "UNSUPPORTED_ENCODING"),
    (429, "RATE_LIMIT_EXCEEDED"),
    (429, "TOKEN_LIMIT_EXCEEDED"),
    (500, "INTERNAL_ERROR"),
    (503, "SERVICE_NOT_AVAILABLE"),
    (504, "TIMEOUT"),
}


def tree(root: type[errors.Failure]) -> list[type[errors.Failure]]:
    """Those of errors.py: what another room derives, as twin does, is no row of the server's table."""
    ours = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(failure for child in ours for failure in tree(child))]


def test_table() -> None:
    """The failures of a request are the rows of the contract's table, no more and no fewer."""
    rows = {
        (failure.status, failure.reason)
        for failure in tree(RequestFailure)
        if issubclass(failure, RequestFailure)
    }
    assert rows == TABLE


def test_tree_is_drawn() -> None:
    """The drawing at the head of errors.py names every failure under its parent's name."""
    drawing = [
        line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line or line == "    Failure"
    ]
    names = [next(word for word in words if word[0].isalpha()) for words in drawing]
    assert names == [failure.__name__ for failure in tree(errors.Failure)]


def test_body() -> None:
    """The envelope is flat; beside it stands the object that other SDKs read."""
    assert error_body(InvalidRequest("no", "n")) == {
        "code": 400,
        "reason": "INVALID_REQUEST_BODY",
        "message": "no",
        "metadata": {"field": "n"},
        "error": {
            "message": "no",
            "type": "invalid_request_error",
            "param": "n",
            "code": "INVALID_REQUEST_BODY",
        },
    }


def test_flat_body() -> None:
    """With error_format: flat the four keys stand alone, metadata even when it is empty."""
    body = error_body(errors.InvalidApiKey("no"), nested=False)
    assert body == {"code": 401, "reason": "INVALID_API_KEY", "message": "no", "metadata": {}}


def test_model_not_found() -> None:
    """The hosted service says which model in metadata.reason; an endless name is cut."""
    assert errors.ModelNotFound("a/b").metadata == {"reason": "model: a/b not found"}
    assert len(errors.ModelNotFound("x" * 10**6).message) < 250


@pytest.mark.parametrize(("given", "sent"), [(0, 0), (7, 7), (60, 60), (3600, 60)])
def test_retry_after(given: int, sent: int) -> None:
    """Retry-After is at most 60 s, as SDKs wait no longer."""
    assert RateLimitExceeded("slow", retry_after_s=given).retry_after_s == sent


def test_internal_error_keeps_its_secret() -> None:
    """The message of a 500 carries the request's id and nothing of the cause."""
    assert errors.InternalError("r-1").message.endswith("request id r-1")
