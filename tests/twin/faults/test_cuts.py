"""Replies that end too early or too late, byte for byte."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.http.sockets import connected
from tests.twin.faults.faulty import (
    ASK,
    STREAM,
    Faulty,
    asking,
    blotted,
    chunk,
    chunks,
    clean,
    frames,
    halves,
    received,
)


async def until_reset(port: int, sent: bytes) -> bytes:
    """What the server says to these bytes before it resets the connection."""
    told = b""
    async with connected(port, sent) as (reader, _):
        try:
            while part := await asyncio.wait_for(reader.read(1 << 16), 30):
                told += part
        except ConnectionResetError:
            return blotted(told)
    pytest.fail("the connection was closed, not reset")


def middle(text: bytes) -> bytes:
    return text[: (len(text) + 1) // 2]


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_cut_before_headers(server: Faulty, body: object) -> None:
    """Not a byte comes, and the connection ends in order."""
    assert await received(server.port, asking(body, "cut_before_headers")) == b""


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_cut_after_headers(server: Faulty, body: object) -> None:
    """The head comes, to its empty line."""
    head, _ = halves(await clean(server.port, body))
    assert await received(server.port, asking(body, "cut_after_headers")) == head


@pytest.mark.parametrize("k", [0, 1, 3])
async def test_cut_after_tokens(server: Faulty, k: int) -> None:
    """Of a stream come the head and k frames, each a chunk of its own."""
    head, body = halves(await clean(server.port, STREAM))
    told = await received(server.port, asking(STREAM, f"cut_after_tokens={k}"))
    assert told == head + b"".join(map(chunk, frames(body)[:k]))


async def test_cut_after_all_tokens(server: Faulty) -> None:
    """After the last token the end is what is missing."""
    head, body = halves(await clean(server.port, STREAM))
    told = await received(server.port, asking(STREAM, f"cut_after_tokens={len(frames(body)) - 1}"))
    assert told == head + b"".join(map(chunk, frames(body)[:-1]))


@pytest.mark.parametrize("fault", ["cut_after_tokens=3", "cut_in_frame=3"])
async def test_a_whole_reply_is_cut_in_its_middle(server: Faulty, fault: str) -> None:
    """It has no frames: half of the body comes."""
    head, body = halves(await clean(server.port, ASK))
    assert await received(server.port, asking(ASK, fault)) == head + middle(body)


async def test_cut_in_frame(server: Faulty) -> None:
    """Of the frame after two tokens comes a half, in a chunk that promises all of it."""
    head, body = halves(await clean(server.port, STREAM))
    first, second, third, *_ = map(chunk, frames(body))
    told = await received(server.port, asking(STREAM, "cut_in_frame=2"))
    assert told == head + first + second + middle(third)


async def test_cut_in_character(server: Faulty) -> None:
    """The text of the frame after two tokens begins with a character of which one byte comes."""
    head, body = halves(await clean(server.port, STREAM))
    first, second, third, *_ = frames(body)
    longer = chunk(third.replace(b'"text":"', '"text":"☃'.encode()))
    begun = longer[: longer.index("☃".encode()) + 1]
    told = await received(server.port, asking(STREAM, "cut_in_character=2"))
    assert told == head + chunk(first) + chunk(second) + begun
    assert told.endswith(b'"text":"\xe2')


async def test_cut_in_character_of_a_whole_reply(server: Faulty) -> None:
    """So does the text of a whole reply."""
    head, body = halves(await clean(server.port, ASK))
    told = await received(server.port, asking(ASK, "cut_in_character"))
    assert told == head + body.partition(b'"text":"')[0] + b'"text":"\xe2'


async def test_cut_in_character_where_there_is_no_text(server: Faulty) -> None:
    """A reply that has none, an error's say, is cut in its middle."""
    head, body = halves(await clean(server.port, ASK | {"n": 0}))
    told = await received(server.port, asking(ASK | {"n": 0}, "cut_in_character"))
    assert told == head + middle(body)


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_reset(server: Faulty, body: object) -> None:
    """Not a byte comes, and the connection is reset."""
    assert await until_reset(server.port, asking(body, "reset")) == b""


async def test_reset_after_tokens(server: Faulty) -> None:
    """Two frames come before the reset."""
    head, body = halves(await clean(server.port, STREAM))
    told = await until_reset(server.port, asking(STREAM, "reset=2"))
    assert told == head + b"".join(map(chunk, frames(body)[:2]))


async def test_reset_in_a_whole_reply(server: Faulty) -> None:
    """Half of the body comes before the reset."""
    head, body = halves(await clean(server.port, ASK))
    assert await until_reset(server.port, asking(ASK, "reset=2")) == head + middle(body)


async def test_short_body(server: Faulty) -> None:
    """The length that is announced is ten bytes more than what comes."""
    head, body = halves(await clean(server.port, ASK))
    longer = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % (len(body) + 10))
    assert longer != head
    assert await received(server.port, asking(ASK, "short_body=10")) == longer + body


async def test_short_body_of_a_stream(server: Faulty) -> None:
    """A last chunk is announced that does not come."""
    head, body = halves(await clean(server.port, STREAM))
    told = await received(server.port, asking(STREAM, "short_body=16"))
    assert told == head + b"".join(map(chunk, frames(body))) + b"10\r\n"


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_long_body(server: Faulty, body: object) -> None:
    """After the end of the body there are more bytes, and the connection stays open."""
    head, rest = halves(await clean(server.port, body))
    expected = head + rest + b"xxx"
    if body is STREAM:
        expected = head + b"".join(map(chunk, frames(rest))) + chunks(rest)[-1] + b"xxx"
    async with connected(server.port, asking(body, "long_body=3")) as (reader, _):
        told = await asyncio.wait_for(reader.readexactly(len(expected)), 30)
        assert blotted(told) == expected
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
