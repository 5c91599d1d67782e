"""Replies instead of the model's, byte for byte."""

from __future__ import annotations

import orjson
import pytest

from server.errors import RequestFailure
from tests.helpers import URL
from tests.server.http.sockets import connected, reply
from tests.twin.faults.faulty import ASK, CLOSE, STREAM, Faulty, asking, halves, received
from twin.faults.answers import FAILURES, STATUSES


@pytest.mark.parametrize("code", STATUSES)
@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_status(server: Faulty, code: int, body: object) -> None:
    """Each status of the contract has the body of the contract: the flat error, and the object beside it."""
    async with connected(server.port, asking(body, f"status={code}")) as (reader, _):
        status, headers, message = await reply(reader)
    assert (status, message["code"], headers["x-request-id"]) == (code, code, "r")
    assert list(message) == ["code", "reason", "message", "metadata", "error"]
    assert headers["content-type"] == "application/json"
    assert ("retry-after" in headers) == (code in (429, 503))


@pytest.mark.parametrize("kind", FAILURES)
async def test_reason(server: Faulty, kind: type[RequestFailure]) -> None:
    """Where a status has two reasons, each can be asked for."""
    fault = f"status={kind.status} reason={kind.reason}"
    async with connected(server.port, asking(ASK, fault)) as (reader, _):
        _, _, message = await reply(reader)
    assert (message["code"], message["reason"]) == (kind.status, kind.reason)


async def test_the_bytes_of_a_status(server: Faulty) -> None:
    """Nothing else comes, and the connection stays."""
    told = await received(server.port, asking(ASK, "status=429 retry_after=3", **CLOSE))
    head, body = halves(told)
    assert head == (
        b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: %d\r\n"
        b"content-type: application/json\r\nx-request-id: r\r\nconnection: close\r\n\r\n" % len(body)
    )
    assert orjson.loads(body)["error"]["code"] == "RATE_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("status=429", "1"),
        ("status=503", "5"),
        ("status=503 retry_after=60", "60"),
        ("status=429 retry_after=0", None),
        ("status=500 retry_after=2", "2"),
    ],
)
async def test_retry_after(server: Faulty, fault: str, expected: str | None) -> None:
    """It is what was asked for; 0 is no header."""
    async with connected(server.port, asking(ASK, fault)) as (reader, _):
        _, headers, _ = await reply(reader)
    assert headers.get("retry-after") == expected


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (401, b"www-authenticate: Bearer"),
        (405, b"allow: POST"),
        (413, b"connection: close"),
        (415, b"accept-encoding: gzip, deflate"),
    ],
)
async def test_headers_of_a_status(server: Faulty, code: int, line: bytes) -> None:
    """What HTTP wants beside a status is there, as the server itself has it."""
    head, _ = halves(await received(server.port, asking(ASK, f"status={code}", **CLOSE)))
    assert line in head.split(b"\r\n")


async def test_an_internal_error_names_its_request(server: Faulty) -> None:
    """Its message has the id that the header has, also where the client sent none."""
    async with connected(server.port, asking(ASK, "status=500", **{"x-request-id": ""})) as (reader, _):
        _, headers, message = await reply(reader)
    assert len(headers["x-request-id"]) == 32
    assert message["message"].endswith(headers["x-request-id"])


async def test_html(server: Faulty) -> None:
    """A page comes with the status of success, as from a proxy that wants a password."""
    head, body = halves(await received(server.port, asking(STREAM, "html", **CLOSE)))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-type: text/html; charset=utf-8\r\n" in head
    assert body.startswith(b"<html>\r\n<head><title>Sign in</title>")


async def test_html_of_a_failure(server: Faulty) -> None:
    """Or with that of a proxy that did not reach the server."""
    head, body = halves(await received(server.port, asking(ASK, "html=502", **CLOSE)))
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"<h1>502 Bad Gateway</h1>" in body


async def test_redirect(server: Faulty) -> None:
    """There is the other place, and no body."""
    head, body = halves(
        await received(server.port, asking(ASK, "redirect=302 location=http://x.test/y", **CLOSE))
    )
    assert head.startswith(b"HTTP/1.1 302 Found\r\nlocation: http://x.test/y\r\ncontent-length: 0\r\n")
    assert body == b""


async def test_a_redirect_that_is_followed(server: Faulty) -> None:
    """The other place has an answer, though the client repeats the header there."""
    there = asking(ASK, "redirect", **CLOSE).replace(URL.encode(), b"/login")
    assert (await received(server.port, there)).startswith(b"HTTP/1.1 404 Not Found\r\n")
