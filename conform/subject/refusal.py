"""Checks that a server refuses what it should, in the form of its profile."""

from __future__ import annotations

from typing import Any

import httpx

from conform.subject.budget import most_tokens
from conform.subject.client import glimpse_tokens
from conform.subject.ends import Unmet, require, shown
from conform.subject.frames import Json, object_of
from conform.subject.server import Subject

LONG_TOKENS = 200  # if a request would take more, only the first piece of an answer is read
MOST_SAID = 3  # wrongly accepted values of a field that a message lists


def message_of(response: httpx.Response) -> str:
    """The message of a failure, in either form of the body."""
    body = object_of(response.text)
    inner = body.get("error")
    message = body.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
    require(isinstance(message, str) and message, f"an error without a message: {shown(response.text)}")
    return str(message)


def failed(subject: Subject, response: httpx.Response, status: int, reason: str) -> Json:
    """The body of a failure, which must have this status, in the profile's form; for hosted,
    with this reason."""
    require(response.status_code == status, f"{response.status_code}, not {status}: {shown(response.text)}")
    body = object_of(response.text)
    message_of(response)
    if subject.profile == "hosted":
        seen = (body.get("code"), body.get("reason"))
        require(seen == (status, reason), f"code and reason are {seen}, not {(status, reason)}")
    else:
        require(isinstance(body.get("error"), dict), f"no error object: {shown(response.text)}")
    return body


def expected_tokens(body: Json) -> int:
    """The largest cost of seeing whether a request is refused."""
    tokens = most_tokens(body)
    return tokens if tokens <= LONG_TOKENS else glimpse_tokens(body)


def refuses(subject: Subject, body: Json, field: str, words: str = "") -> None:
    """Check for a 400; with hosted, it must name the field and the allowed values."""
    whole = subject.body(**body)
    long = most_tokens(whole) > LONG_TOKENS
    response = subject.client.glimpse(whole) if long else subject.client.post(whole)
    what = shown(
        {name: value for name, value in body.items() if name not in ("prompt", "max_tokens")} or body
    )
    require(response.status_code == 400, f"{what}: {response.status_code}, not 400")
    failure = failed(subject, response, 400, "INVALID_REQUEST_BODY")
    if subject.profile == "hosted":
        message = message_of(response)
        named = (failure.get("metadata") or {}).get("field")
        require(named == field, f"{what}: metadata.field is {named!r}, not {field!r}")
        require(field in message, f"{what}: the message does not name {field}: {shown(message)}")
        require(words in message, f"{what}: the message does not say {words!r}: {shown(message)}")


def refuses_each(subject: Subject, rows: list[tuple[Any, str]], field: str, base: Json) -> None:
    """Check that each of these values of a field is refused; all that are not are reported together."""
    wrong = []
    for value, words in rows:
        try:
            refuses(subject, base | {field: value}, field, words)
        except Unmet as failure:
            wrong.append(str(failure))
    more = f"; and {len(wrong) - MOST_SAID} more" if len(wrong) > MOST_SAID else ""
    require(not wrong, "; ".join(wrong[:MOST_SAID]) + more)
