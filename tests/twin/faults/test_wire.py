"""A reply taken apart and put together: the same bytes come out, however they come in."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.twin.faults.faulty import chunk
from twin.faults.edits import FinishMissing, NoDone
from twin.faults.fault import Step
from twin.faults.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
FRAMES = [b'data: {"choices":[{"text":"%d \xc3\xa9"}]}\n\n' % number for number in range(4)]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\nx: y\r\n\r\n" + b"a" * 40
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(FRAMES)


def passed(wire: Wire, sent: bytes, cuts: list[int]) -> list[Step]:
    """What comes of these bytes when they are cut at these places."""
    places = sorted({0, *(cut % len(sent) for cut in cuts), len(sent)})
    return [step for start, end in pairwise(places) for step in wire.feed(sent[start:end])]


def joined(steps: list[Step]) -> bytes:
    return b"".join(step for step in steps if isinstance(step, bytes))


@given(st.lists(st.integers(0, 1000)), st.lists(st.integers(1, 3)))
def test_a_stream(cuts: list[int], sizes: list[int]) -> None:
    """Each frame is a chunk of its own, however many were in one."""
    rest, sent = list(FRAMES), CHUNKED
    for size in [*sizes, len(FRAMES)]:
        if rest:
            sent += chunk(b"".join(rest[:size]))
            del rest[:size]
    wire = Wire(NoDone(), has_body=True)
    assert joined(passed(wire, sent + b"0\r\n\r\n", cuts)) == CHUNKED + b"".join(
        [*map(chunk, FRAMES), b"0\r\n\r\n"]
    )
    assert wire.is_over


@given(st.lists(st.integers(0, 1000)))
def test_a_whole_reply(cuts: list[int]) -> None:
    """Its bytes are the same."""
    wire = Wire(FinishMissing(), has_body=True)
    assert joined(passed(wire, WHOLE, cuts)) == WHOLE
    assert wire.is_over


@given(st.lists(st.integers(0, 1000)))
def test_a_reply_that_ends_with_the_connection(cuts: list[int]) -> None:
    """It is over when the server closes, and not before."""
    wire = Wire(FinishMissing(), has_body=True)
    assert joined(passed(wire, UNTIL_CLOSED, cuts)) == UNTIL_CLOSED
    assert not wire.is_over
    assert joined(list(wire.close())) == b""
    assert wire.is_over


def test_a_reply_without_a_body() -> None:
    """One to HEAD announces what does not come, and a 204 announces nothing: both are over with the head."""
    head, none = WHOLE[: WHOLE.index(b"\r\n\r\n") + 4], b"HTTP/1.1 204 No Content\r\n\r\n"
    for sent, has_body in ((head, False), (none, True)):
        wire = Wire(NoDone(), has_body=has_body)
        assert joined(passed(wire, sent, [])) == sent
        assert wire.is_over
