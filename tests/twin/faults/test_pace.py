"""Replies that come whole, but slowly: the bytes, and when they come."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from tests.helpers import until
from tests.server.http.sockets import connected
from tests.twin.faults.faulty import (
    ASK,
    CLOSE,
    STREAM,
    Faulty,
    asking,
    blotted,
    chunk,
    clean,
    frames,
    halves,
    received,
)
from twin.faults.connection import FaultyConnection

STALL_S = 1.0  # what comes at once comes before, on a busy machine too
SEGMENTS_IN = struct.Struct("=152xI")  # of Linux's struct tcp_info: tcpi_data_segs_in


async def timed(port: int, sent: bytes) -> list[tuple[float, bytes]]:
    """What the server says, piece by piece, each with the seconds after which it came."""
    began, found = time.monotonic(), []
    async with connected(port, sent) as (reader, _):
        while part := await asyncio.wait_for(reader.read(1 << 16), 30):
            found.append((time.monotonic() - began, part))
    return found


def before_and_after(pieces: list[tuple[float, bytes]], seconds: float) -> tuple[bytes, bytes]:
    return tuple(  # type: ignore[return-value]
        blotted(b"".join(part for at, part in pieces if (at >= seconds) is is_late))
        for is_late in (False, True)
    )


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_stall_before_all(server: Faulty, body: object) -> None:
    """For so long not a byte comes, headers neither; then all of it."""
    plain = await received(server.port, asking(body, **CLOSE))
    early, late = before_and_after(
        await timed(server.port, asking(body, f"stall={STALL_S}", **CLOSE)), STALL_S
    )
    assert early == b""
    assert halves(late)[0] == halves(plain)[0]
    assert late.endswith(plain[-10:])


async def test_stall_after_tokens(server: Faulty) -> None:
    """Two frames come at once, the others after the stall."""
    _, body = halves(await clean(server.port, STREAM))
    told = await timed(server.port, asking(STREAM, f"stall={STALL_S} after=2", **CLOSE))
    early, late = before_and_after(told, STALL_S)
    parts = [*map(chunk, frames(body)), b"0\r\n\r\n"]
    assert halves(early)[1] == b"".join(parts[:2])
    assert late == b"".join(parts[2:])


async def test_stall_in_a_whole_reply(server: Faulty) -> None:
    """Half of the body comes at once."""
    _, body = halves(await clean(server.port, ASK))
    told = await timed(server.port, asking(ASK, f"stall={STALL_S} after=2", **CLOSE))
    early, late = before_and_after(told, STALL_S)
    middle = (len(body) + 1) // 2
    assert (halves(early)[1], late) == (body[:middle], body[middle:])


async def test_a_stall_holds_nobody_else_up(server: Faulty) -> None:
    """Another connection is answered meanwhile."""
    async with connected(server.port, asking(STREAM, "stall=1m")) as (reader, _):
        assert await asyncio.wait_for(clean(server.port, STREAM), 30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)


async def test_a_client_that_leaves_ends_a_stall(server: Faulty) -> None:
    """Nothing of the connection is left."""
    async with connected(server.port, asking(STREAM, "stall=1m after=1")) as (reader, _):
        assert await asyncio.wait_for(reader.read(1 << 16), 30)
        (connection,) = server.server.server_state.connections
        assert isinstance(connection, FaultyConnection)
    await until(lambda: not server.server.server_state.connections)
    await until(lambda: not server.server.server_state.tasks)
    assert not connection._faulty.is_waiting


async def test_slow_headers(server: Faulty) -> None:
    """They take so long, in pieces, and the body comes right after."""
    plain = await received(server.port, asking(ASK, **CLOSE))
    pieces = await timed(server.port, asking(ASK, f"slow_headers={STALL_S}", **CLOSE))
    assert blotted(b"".join(part for _, part in pieces)) == plain
    early, _ = before_and_after(pieces, STALL_S * 0.9)
    assert b"\r\n\r\n" not in early
    assert len(pieces) > 20


async def test_one_byte(server: Faulty) -> None:
    """Each byte is a segment of its own, as the kernel of the client counts them."""
    async with connected(server.port, asking(ASK, "one_byte", **CLOSE)) as (reader, writer):
        told = await asyncio.wait_for(reader.read(), 30)
        sock: socket.socket = writer.get_extra_info("socket")
        (segments,) = SEGMENTS_IN.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156))
    assert blotted(told) == await received(server.port, asking(ASK, **CLOSE))
    assert segments >= 0.9 * len(told)


async def test_one_byte_of_a_stream(server: Faulty) -> None:
    """Chunks and frames are whole in the end."""
    plain = await received(server.port, asking(STREAM, **CLOSE))
    told = await received(server.port, asking(STREAM, "one_byte", **CLOSE))
    assert frames(halves(told)[1]) == frames(halves(plain)[1])
