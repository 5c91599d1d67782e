"""Pages of other origins, as browsers have them ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from server.http.cors import CrossOrigin
from tests.helpers import ASK, URL, app_of, events, running, talking

PAGE, OTHER = "https://app.example", "https://other.example"


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    """As a browser asks before it sends a key, and what the OpenAI client adds."""
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }


@pytest.mark.parametrize("origins", [(PAGE,), ("*",)])
async def test_preflight(directory: Path, origins: tuple[str, ...]) -> None:
    """A browser may send a key and any header from an origin that is named, or from all of them."""
    async with running(app_of(talking(directory, "he"), cors_origins=origins, api_keys=("key",))) as client:
        reply = await client.options(URL, headers=preflight(PAGE))
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == ("*" if "*" in origins else PAGE)
    assert "x-stainless-lang" in reply.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in reply.headers
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(("origin", "method"), [(OTHER, "POST"), ("null", "POST"), (PAGE, "DELETE")])
async def test_preflight_of_others(directory: Path, origin: str, method: str) -> None:
    """Another origin, or a method that is none here, is refused as every mistake is."""
    async with running(app_of(talking(directory, "he"), cors_origins=(PAGE,))) as client:
        reply = await client.options(URL, headers=preflight(origin, method))
    assert (reply.status_code, reply.json()["code"]) == (400, 400)
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["x-request-id"]


async def test_replies_may_be_read(directory: Path) -> None:
    """Reply, stream and errors of every kind may be read by the page, with request id, Retry-After and the
    headers of limits."""
    async with running(app_of(talking(directory, "he"), cors_origins=(PAGE,))) as client:
        headers = {"origin": PAGE}
        replies = [
            await client.post(URL, json=ASK, headers=headers),
            await client.post(URL, json=ASK | {"stream": True}, headers=headers),
            await client.post(URL, json={}, headers=headers),
            await client.get("/none", headers=headers),
            await client.put(URL, headers=headers),
            await client.get("/v1/models", headers=headers | {"authorization": ""}),
        ]
    assert [reply.status_code for reply in replies] == [200, 200, 400, 404, 405, 401]
    assert {reply.headers["access-control-allow-origin"] for reply in replies} == {PAGE}
    (exposed,) = {reply.headers["access-control-expose-headers"] for reply in replies}
    assert {"x-request-id", "retry-after", "x-ratelimit-reset-tokens"} <= set(exposed.split(", "))
    assert {reply.headers["vary"] for reply in replies} == {"Origin"}


async def test_others_are_answered_without_leave(directory: Path) -> None:
    """Other origins, and clients that are no browsers, get their replies, which no page may read."""
    async with running(app_of(talking(directory, "he"), cors_origins=(PAGE,))) as client:
        for headers in ({}, {"origin": OTHER}):
            reply = await client.post(URL, json=ASK, headers=headers)
            assert reply.status_code == 200
            assert "access-control-allow-origin" not in reply.headers


async def test_off_by_default(directory: Path) -> None:
    """Without cors_origins there is no preflight and no header."""
    async with running(app_of(talking(directory, "he"))) as client:
        assert (await client.options(URL, headers=preflight(PAGE))).status_code == 405
        reply = await client.post(URL, json=ASK, headers={"origin": PAGE})
    assert "access-control-allow-origin" not in reply.headers


async def test_chunks_go_past_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream it sees the start alone: chunks cost what they cost without it."""
    seen: list[str] = []
    send = CrossOrigin.send

    async def watched(self: CrossOrigin, message: Message, **more: Any) -> None:
        seen.append(message["type"])
        await send(self, message, **more)

    monkeypatch.setattr(CrossOrigin, "send", watched)
    async with running(app_of(talking(directory, "hello é"), cors_origins=(PAGE,))) as client:
        reply = await client.post(URL, json=ASK | {"stream": True}, headers={"origin": PAGE})
    assert len(events(reply.content)) > 2
    assert seen == ["http.response.start"]
