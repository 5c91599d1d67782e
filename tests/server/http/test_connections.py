"""Clients that are slow, silent, or too many: how long each connection may take, and which makes room."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from server.http import connections
from server.http.connections import Connections
from server.http.metrics import Metrics
from tests.helpers import LONG, app_of, eager, running, slow, talking, until
from tests.server.http.sockets import connected, listening, reply, request

TIMEOUT_S = 0.4
REQUEST = request(LONG)
HALF_A_HEAD, HALF_A_BODY = REQUEST[:30], REQUEST[:-5]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are looked at more often than in earnest."""
    monkeypatch.setattr(connections, "EVERY_S", 0.02)


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"P", HALF_A_HEAD, HALF_A_BODY], ids=["byte", "head", "body"])
@pytest.mark.parametrize("trickles", [False, True])
async def test_half_a_request(directory: Path, sent: bytes, trickles: bool) -> None:
    """From the first byte to the whole request there is one deadline; what trickles in does not move it."""
    app = app_of(talking(directory, "he"), receive_timeout_s=TIMEOUT_S)
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        writer.write(sent)
        answer = asyncio.create_task(reply(reader))
        rest = iter(REQUEST[len(sent) : -1] if trickles else b"")
        while not answer.done():
            await asyncio.sleep(TIMEOUT_S / 5)
            writer.write(bytes(islice(rest, 1)))
        status, headers, body = await answer
        assert await reader.read() == b""
    assert (status, body["reason"], headers["connection"]) == (408, "TIMEOUT", "close")
    assert len(headers["x-request-id"]) == 32
    assert app.state.server.in_flight == 0


async def test_late_after_a_reply(directory: Path) -> None:
    """The deadline holds for each request of a connection, from its own first byte."""
    app = app_of(talking(directory, "he"), receive_timeout_s=TIMEOUT_S)
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert (await reply(reader))[0] == 200
            await asyncio.sleep(TIMEOUT_S / 2)
        writer.write(HALF_A_HEAD)
        assert (await reply(reader))[0] == 408


async def test_sent_ahead_is_not_late(directory: Path) -> None:
    """The beginning of a request that waits for the reply before it has its time from that reply on."""
    model, _ = eager(directory, step_s=0.02)
    app = app_of(model, receive_timeout_s=1.0)
    sent = REQUEST + HALF_A_BODY
    async with running(app), listening(app) as port, connected(port, sent) as (reader, writer):
        assert (await reply(reader))[0] == 200  # after 1.2 s
        writer.write(REQUEST[len(HALF_A_BODY) :])
        assert (await reply(reader))[0] == 200


async def test_rest_of_a_body_that_is_answered(directory: Path) -> None:
    """A body that is not read, because its request has been refused, is not waited for either."""
    app = app_of(talking(directory, "he"), receive_timeout_s=TIMEOUT_S)
    sent = request(b" " * 1000, headers={"authorization": ""})[:-500]
    async with running(app), listening(app) as port, connected(port, sent) as (reader, _):
        assert (await reply(reader))[0] == 401
        assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_silence(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing is sent, or no more, is closed without a word, empty lines or not."""
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", TIMEOUT_S)
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port:
        for sent in (b"", b"\r\n", REQUEST):
            async with connected(port, sent) as (reader, _):
                if sent == REQUEST:
                    assert (await reply(reader))[0] == 200
                assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_work_has_its_time(directory: Path) -> None:
    """A request that is whole is not held to the deadline of its arrival."""
    model, _ = eager(directory, step_s=0.02)
    app = app_of(model, receive_timeout_s=TIMEOUT_S)
    async with running(app), listening(app) as port, connected(port, REQUEST) as (reader, _):
        assert (await reply(reader))[0] == 200


# --- room --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["silent", "half a head"])
async def test_the_longest_silent_makes_room(
    directory: Path, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """Connections without a request lock nobody out: the oldest of them is closed for a new one."""
    app = app_of(talking(directory, "he"))
    async with running(app) as client, listening(app, most=2) as port, AsyncExitStack() as stack:
        first, _ = await stack.enter_async_context(connected(port, sent))
        await asyncio.sleep(0.05)
        second, _ = await stack.enter_async_context(connected(port, sent))
        await asyncio.sleep(0.05)
        third, _ = await stack.enter_async_context(connected(port, REQUEST))
        assert (await reply(third))[0] == 200
        assert await asyncio.wait_for(first.read(), 30) == b""
        assert not second.at_eof()
        await until(lambda: "1 that sent no request were closed" in caplog.text)
        assert 'connections_dropped_total{reason="silent"} 1.0' in (await client.get("/metrics")).text


async def test_no_room(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where every connection has a request that is worked on, a new one gets a 503, and all others go on."""
    model, engine = slow(directory)
    app = app_of(model)
    async with running(app) as client, listening(app, most=3) as port, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(connected(port, REQUEST))
        await until(lambda: len(engine.running) == 3)
        for _ in range(5):
            async with connected(port, REQUEST) as (reader, _):
                status, headers, body = await reply(reader)
            assert (status, body["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
            assert 1 <= int(headers["retry-after"]) <= 60
        assert len(engine.running) == 3
        await until(lambda: "more were refused with a 503" in caplog.text)
        assert 'connections_dropped_total{reason="full"} 5.0' in (await client.get("/metrics")).text


async def test_room_comes_back(directory: Path) -> None:
    """A connection that has ended leaves its place to another one."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app, most=1) as port:
        for _ in range(5):
            async with connected(port, request(LONG, headers={"connection": "close"})) as (reader, _):
                assert (await reply(reader))[0] == 200


async def test_drain_waits_for_no_body(directory: Path) -> None:
    """When the server shuts down, a request whose body is still coming gets its 503 at once."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port, connected(port, HALF_A_BODY) as (reader, _):
        await until(lambda: app.state.server.in_flight == 1)
        app.state.connections.drain()
        status, _, body = await reply(reader)
    assert (status, body["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert app.state.server.in_flight == 0


# --- the list ----------------------------------------------------------------------------------------------


class Held:
    """A connection that only remembers that it was closed."""

    dropped = False

    def refuse(self, failure: object) -> None:
        self.dropped = True

    def drop(self) -> None:
        self.dropped = True


def test_lingering_ones_are_few(directory: Path) -> None:
    """Connections that are about to be closed take nobody's place, and are never more than so many."""
    settings = app_of(talking(directory, "he")).state.server.settings
    listed = Connections(settings, Metrics(), most=1)
    held = [Held() for _ in range(connections.MAX_LINGERING + 2)]
    for one in held:
        assert listed.admit(one)
        listed.place(one, listed.lingering, 0.0)
    assert [one.dropped for one in held] == [True] * 2 + [False] * connections.MAX_LINGERING


def test_the_log_says_it_seldom(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However many connections are dropped, there is a line in ten seconds."""
    settings = app_of(talking(directory, "he")).state.server.settings
    listed = Connections(settings, Metrics(), most=1)
    with caplog.at_level(logging.WARNING):
        for now in range(25):
            for _ in range(100):
                listed.admit(Held())
            listed._tell(1000.0 + now)
    assert len(caplog.messages) == 3
    assert "99 that sent no request" in caplog.messages[0]
