"""What becomes of connections: refused, reset, closed at reuse."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.server.http.sockets import connected, reply
from tests.twin.faults.faulty import ASK, CLOSE, STREAM, Faulty, asking, received

REFUSE_S = 0.4
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


async def until_connected(port: int) -> float:
    """When a connection is no more refused, by the clock."""
    while True:
        try:
            async with connected(port, HEALTH) as (reader, _):
                assert (await reply(reader))[0] == 200
                return time.monotonic()
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)


async def test_refuse(server: Faulty) -> None:
    """The request is answered and its connection closed; the next ones are refused, for so long."""
    began = time.monotonic()
    told = await received(server.port, asking(ASK, f"refuse={REFUSE_S}"))
    assert told.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in told
    with pytest.raises(ConnectionRefusedError):
        await received(server.port, asking(ASK))
    assert await until_connected(server.port) > began + REFUSE_S
    assert (await received(server.port, asking(STREAM, **CLOSE))).endswith(b"0\r\n\r\n")


async def test_refuse_is_asked_for_by_any_request(server: Faulty) -> None:
    """GET /health does; a second time is as well."""
    for _ in range(2):
        told = await received(server.port, HEALTH[:-2] + b"x-verbatim-fault: refuse=400ms\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(ConnectionRefusedError):
            await received(server.port, HEALTH)
        await until_connected(server.port)


async def test_refuse_ends_idle_connections(server: Faulty) -> None:
    """And lets those finish that have a request."""
    async with (
        connected(server.port, HEALTH) as (idle, _),
        connected(server.port, asking(STREAM, "stall=200ms after=2")) as (busy, _),
    ):
        await reply(idle)
        await busy.readuntil(b"\r\n\r\n")
        await received(server.port, asking(ASK, "refuse=100ms"))
        assert await asyncio.wait_for(idle.read(), 30) == b""
        assert (await asyncio.wait_for(busy.read(), 30)).endswith(b"0\r\n\r\n")
    await until_connected(server.port)


async def test_reset_connections(server: Faulty) -> None:
    """The next two connections are reset, and the third one is answered."""
    assert await received(server.port, asking(ASK, "reset_connections=2", **CLOSE))
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            assert await received(server.port, asking(ASK)) is None
    assert await received(server.port, asking(ASK, **CLOSE))


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_close_at_reuse(server: Faulty, body: object) -> None:
    """The connection is kept until the next request comes, which gets not a byte and no reset."""
    async with connected(server.port, asking(ASK, "close_at_reuse")) as (reader, writer):
        status, headers, _ = await reply(reader)
        assert (status, "connection" in headers) == (200, False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        writer.write(asking(body))
        assert await asyncio.wait_for(reader.read(), 30) == b""
