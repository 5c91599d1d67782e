"""Replies of other contents, byte for byte."""

from __future__ import annotations

import orjson
import pytest

from server.errors import RequestTimeout
from server.http.sse import DONE, error_frame
from tests.twin.faults.faulty import (
    ASK,
    CLOSE,
    STREAM,
    Faulty,
    asking,
    clean,
    frames,
    halves,
    received,
)

LAST = b"0\r\n\r\n"
WITH_USAGE = STREAM | {"stream_options": {"include_usage": True}}


async def streamed(server: Faulty, fault: str, body: object = STREAM) -> tuple[list[bytes], list[bytes]]:
    """The frames of a stream without the fault and with it. The head is the same, and so is the end."""
    head, plain = halves(await clean(server.port, body))
    faulty_head, rest = halves(await received(server.port, asking(body, fault, **CLOSE)))
    assert faulty_head.replace(b"connection: close\r\n", b"") == head
    assert rest.endswith(LAST)
    return frames(plain), frames(rest)


async def whole(server: Faulty, fault: str) -> tuple[bytes, bytes]:
    """The body of a whole reply without the fault and with it, whose length is announced."""
    _, plain = halves(await clean(server.port, ASK))
    head, body = halves(await received(server.port, asking(ASK, fault, **CLOSE)))
    assert b"content-length: %d\r\n" % len(body) in head
    return plain, body


@pytest.mark.parametrize(
    "fault", ["no_done", "comment=1", "finish_twice", "content_type=application/json", "one_byte"]
)
async def test_a_whole_reply_stays_as_it_is(server: Faulty, fault: str) -> None:
    """Faults that are about frames leave one that has none alone."""
    assert await received(server.port, asking(ASK, fault, **CLOSE)) == await received(
        server.port, asking(ASK, **CLOSE)
    )


async def test_no_done(server: Faulty) -> None:
    """All frames come but the last, and the body's end."""
    plain, told = await streamed(server, "no_done")
    assert told == plain[:-1]
    assert plain[-1] == DONE


async def test_error_frame(server: Faulty) -> None:
    """After two tokens comes the frame of the error, and then the end."""
    plain, told = await streamed(server, "error_frame=2 status=504")
    late = RequestTimeout("the request took longer than this server allows (request_timeout_s)")
    assert told == [*plain[:2], error_frame(late), DONE]


async def test_error_frame_names_the_request(server: Faulty) -> None:
    """An internal error says the id by which the log knows it."""
    _, told = await streamed(server, "error_frame")
    message = orjson.loads(told[0].removeprefix(b"data: "))
    assert (message["code"], message["message"].endswith("under request id r")) == (500, True)


async def test_error_frame_of_a_whole_reply(server: Faulty) -> None:
    """Where a whole reply was asked for, the error has its own status."""
    told = await received(server.port, asking(ASK, "error_frame=2 status=503", **CLOSE))
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


async def test_bad_json(server: Faulty) -> None:
    """The frame after two tokens is cut in half, and is still a frame; the others are whole."""
    plain, told = await streamed(server, "bad_json=2")
    assert [*told[:2], *told[3:]] == [*plain[:2], *plain[3:]]
    assert told[2] == plain[2][: len(plain[2]) // 2] + b"\n\n"


async def test_bad_json_of_a_whole_reply(server: Faulty) -> None:
    """Half of the body is all that is announced."""
    plain, told = await whole(server, "bad_json")
    assert told == plain[: len(plain) // 2]


@pytest.mark.parametrize("k", [0, 2])
async def test_comment(server: Faulty, k: int) -> None:
    """A comment stands before the frame after k tokens, in a chunk of its own."""
    plain, told = await streamed(server, f"comment={k}")
    assert told == [*plain[:k], b": a comment, which says nothing to a client\n\n", *plain[k:]]


async def test_a_place_comes_once(server: Faulty) -> None:
    """The place after the last token is one, though two frames more come."""
    plain, _ = await streamed(server, "comment", WITH_USAGE)
    assert b'"choices":[]' in plain[-2]
    _, told = await streamed(server, f"comment={len(plain) - 2}", WITH_USAGE)
    assert told == [*plain[:-2], b": a comment, which says nothing to a client\n\n", *plain[-2:]]


async def test_finish_twice(server: Faulty) -> None:
    """The frame with the finish_reason comes twice, each time with the usage."""
    plain, told = await streamed(server, "finish_twice")
    assert told == [*plain[:-2], plain[-2], plain[-2], DONE]


async def test_finish_missing(server: Faulty) -> None:
    """Where the finish_reason stands is null."""
    plain, told = await streamed(server, "finish_missing")
    assert plain[-2] != told[-2] == plain[-2].replace(b'"finish_reason":"stop"', b'"finish_reason":null')
    assert told[:-2] == plain[:-2]


async def test_finish_missing_of_a_whole_reply(server: Faulty) -> None:
    """So it does in a whole reply, which is shorter then."""
    plain, told = await whole(server, "finish_missing")
    assert plain != told == plain.replace(b'"finish_reason":"stop"', b'"finish_reason":null')


async def test_usage_missing(server: Faulty) -> None:
    """The last frame with a choice has none."""
    plain, told = await streamed(server, "usage_missing")
    assert b',"usage":{' in plain[-2]
    assert told[-2] == plain[-2][: plain[-2].index(b',"usage":')] + b"}\n\n"
    assert [*told[:-2], told[-1]] == [*plain[:-2], plain[-1]]


async def test_usage_missing_where_it_was_asked_for(server: Faulty) -> None:
    """The frame that has nothing else is left out."""
    plain, told = await streamed(server, "usage_missing", WITH_USAGE)
    assert told == [*plain[:-2], plain[-1]]


async def test_usage_missing_of_a_whole_reply(server: Faulty) -> None:
    """A whole reply has none either."""
    plain, told = await whole(server, "usage_missing")
    assert told == plain[: plain.index(b',"usage":')] + b"}"


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_content_type(server: Faulty, body: object) -> None:
    """The header says another type, and all else is the same."""
    head, _ = halves(await clean(server.port, body))
    told, _ = halves(await received(server.port, asking(body, "content_type=text/html", **CLOSE)))
    changed = [line for line in told.split(b"\r\n") if line not in head.split(b"\r\n")]
    assert changed == [b"content-type: text/html", b"connection: close"]
