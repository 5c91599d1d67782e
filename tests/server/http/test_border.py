"""What every request and reply has, whatever its route: an id, a line in the log, HEAD beside GET."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.helpers import ASK, URL, Engine, app_of, running, served


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, Engine(), id="a/b"))) as client:
        yield client


@pytest.mark.parametrize("request_id", ["r-1", "a b", "x" * 128])
async def test_request_id_comes_back(client: httpx.AsyncClient, request_id: str) -> None:
    """The client's own request id comes back, on successes and failures alike."""
    for ask in (ASK | {"model": "a/b"}, ASK | {"model": "a/b", "stream": True}, {}):
        reply = await client.post(URL, json=ask, headers={"x-request-id": request_id})
        assert reply.headers.get_list("x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", ["", "x" * 129, "é", "a\tb", "\x7f"])
async def test_odd_request_id_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    """An id that is long, empty or not printable ASCII is replaced by one of ours."""
    headers = [(b"x-request-id", request_id.encode())]
    reply = await client.get("/health", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


async def test_request_log(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """One line a request, with who asked for what; what the client wrote cannot forge another line."""
    with caplog.at_level("INFO", "verbatim.requests"):
        await client.post(URL, json=ASK | {"model": "a/b", "user": "me\nid=forged"})
        await client.get("/health")
    (line,) = caplog.messages
    assert "model=a/b" in line
    assert "status=200" in line
    assert r"user='me\nid=forged'" in line


PATHS = [
    "/health",
    "/ready",
    "/metrics",
    "/v1/models",
    "/v1/models/a/b",
    "/docs",
    "/openapi.json",
    "/attestation",
]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models/none", "/none"])
async def test_head_is_get_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    """HEAD has the status and the headers of GET, wherever GET is answered."""
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
    assert (head.content, int(head.headers["content-length"]) > 0) == (b"", True)


async def test_head_of_what_has_no_get(client: httpx.AsyncClient) -> None:
    """HEAD is a method of nothing else; where it is one, a wrong method is told so."""
    reply = await client.head(URL)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert (await client.post("/health")).headers["allow"] == "GET, HEAD"
