"""Whether a server refuses what it should, in the words of its house."""

from __future__ import annotations

from typing import Any

import httpx

from conform.subject.budget import most_tokens
from conform.subject.client import glimpse_tokens
from conform.subject.ends import Unmet, require, shown
from conform.subject.frames import Json, object_of
from conform.subject.server import Subject

LONG_TOKENS = 200  # of a request that would take more, were it answered, a glimpse is enough
MOST_SAID = 3  # values of a field that were taken, in a message


def message_of(response: httpx.Response) -> str:
    """The words of a failure, in either form of the body."""
    body = object_of(response.text)
    inner = body.get("error")
    message = body.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
    require(isinstance(message, str) and message, f"an error without a message: {shown(response.text)}")
    return str(message)


def failed(subject: Subject, response: httpx.Response, status: int, reason: str) -> Json:
    """The body of a failure of this status, in the shape of the house; hosted: with this reason."""
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
    """The most that it costs to see whether a request is refused."""
    tokens = most_tokens(body)
    return tokens if tokens <= LONG_TOKENS else glimpse_tokens(body)


def refuses(subject: Subject, body: Json, field: str, words: str = "") -> None:
    """A 400, which hosted names the field and what is allowed."""
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
    """Each of these values of a field; all that do not hold are said together."""
    wrong = []
    for value, words in rows:
        try:
            refuses(subject, base | {field: value}, field, words)
        except Unmet as failure:
            wrong.append(str(failure))
    more = f"; and {len(wrong) - MOST_SAID} more" if len(wrong) > MOST_SAID else ""
    require(not wrong, "; ".join(wrong[:MOST_SAID]) + more)
