"""Several requests on a connection, some with faults: each has its own reply, in its turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.helpers import eager, talking
from tests.server.http.sockets import connected, request, said, said_to_the_end
from tests.twin.faults.faulty import (
    ASK,
    CLOSE,
    SAID,
    STREAM,
    Faulty,
    asking,
    blotted,
    clean,
    faulty,
    halves,
    received,
)


async def test_sent_ahead(server: Faulty) -> None:
    """A reply that stalls holds back those after it, which then come whole and without a fault."""
    plain = await clean(server.port, STREAM)
    sent = asking(STREAM, "stall=200ms after=2") + asking(STREAM) + asking(ASK, **CLOSE)
    told = await received(server.port, sent)
    replies = told.split(b"HTTP/1.1 ")[1:]
    assert len(replies) == 3
    assert b"HTTP/1.1 " + replies[1] == plain
    assert replies[2] == (await received(server.port, asking(ASK, **CLOSE))).removeprefix(b"HTTP/1.1 ")


async def test_kept_alive(server: Faulty) -> None:
    """A fault is of one request: the next one on the connection has none."""
    plain = await clean(server.port, STREAM)
    async with connected(server.port, asking(STREAM, "no_done")) as (reader, writer):
        assert b"[DONE]" not in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 30)
        writer.write(asking(STREAM))
        told = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 30)
    assert blotted(told) == plain


async def test_replies_with_several_faults(server: Faulty) -> None:
    """Each of a row of requests has its own."""
    sent = asking(STREAM, "status=503") + asking(STREAM, "no_done") + asking(STREAM, "cut_after_headers")
    told = await said_to_the_end(server.port, sent)
    first, second, third = told.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"503 ")
    assert (second[:6], second[-5:], b"[DONE]" in second) == (b"200 OK", b"0\r\n\r\n", False)
    assert (third[:6], third[-4:]) == (b"200 OK", b"\r\n\r\n")


async def test_an_old_client(server: Faulty) -> None:
    """One of HTTP/1.0 knows no chunks: its body ends with the connection, after the stall too."""
    old = request(STREAM, "1.0", {"x-verbatim-fault": "stall=200ms after=2"})
    plain = await said_to_the_end(server.port, request(STREAM, "1.0"))
    told = await said_to_the_end(server.port, old)
    ids = {line for line in told.split(b"\r\n") if line.startswith(b"x-request-id")}
    same = [line for line in blotted(told).split(b"\r\n") if line not in ids]
    assert same == [line for line in blotted(plain).split(b"\r\n") if not line.startswith(b"x-request-id")]


async def test_a_refusal_before_the_body_has_come(server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has said all and would drop the connection soon: what a fault holds back still comes."""
    monkeypatch.setattr(server.connections.lingering, "limit_s", 0.1)
    sent = b"x" * 10 + b"\r\n"
    early = asking(b"{", "stall=1200ms", **{"content-length": "1000000000"}) + sent
    head, body = halves(await said_to_the_end(server.port, early))
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"content-length: %d\r\n" % len(body) in head


async def test_a_request_that_is_ahead_of_its_time(directory: Path) -> None:
    """Where a connection ends at reuse, one that comes before the reply's end is none, and is answered."""
    async with (
        faulty(eager(directory, step_s=0.01)[0]) as server,
        connected(server.port, asking(STREAM, "close_at_reuse")) as (reader, writer),
    ):
        await asyncio.wait_for(reader.readuntil(b"\n\n"), 30)
        writer.write(asking(STREAM))
        for _ in range(2):
            assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 30)


async def test_a_head_alone(server: Faulty) -> None:
    """The reply to HEAD announces a body that does not come: its end is that of the head."""
    head = b"HEAD /health HTTP/1.1\r\nhost: x\r\nx-request-id: r\r\n%b\r\n"
    plain = await received(server.port, head % b"" + asking(ASK, **CLOSE))
    told = await received(server.port, head % b"x-verbatim-fault: short_body=3\r\n" + asking(ASK, **CLOSE))
    assert plain.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n")
    assert told == halves(plain)[0].replace(b": 15", b": 18")


async def test_a_client_that_asks_before_its_body(server: Faulty) -> None:
    """100 Continue comes at once, and the fault is the reply's."""
    sent = asking(STREAM, "cut_after_headers", expect="100-continue")
    head, _, body = sent.partition(b"\r\n\r\n")
    async with connected(server.port, head + b"\r\n\r\n") as (reader, writer):
        told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_without_a_fault_all_is_as_before(server: Faulty) -> None:
    """No header and no rule: the same bytes, on the way that takes nothing apart."""
    assert (await said(server.port, asking(STREAM))).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_the_end_of_the_server_ends_a_stall(directory: Path) -> None:
    """It does not wait for a pause of a minute, and the client sees the end."""
    async with faulty(talking(directory, SAID)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(asking(STREAM, "stall=1m after=1"))
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
    writer.close()


async def test_the_end_of_the_server_opens_no_port(directory: Path) -> None:
    """One that refuses ends as well, and leaves nothing that would listen later."""
    async with faulty(talking(directory, SAID)) as server:
        assert await received(server.port, asking(ASK, "refuse=1m"))
    assert server.server._refusing is not None
    assert server.server._refusing.cancelled()
