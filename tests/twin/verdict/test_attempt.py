"""What is read of a reply's bytes on the wire."""

from __future__ import annotations

import pytest

from twin.verdict.attempt import Attempt

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    b'2b\r\ndata: {"choices":[{"finish_reason":null}]}\n\n\r\n',
    b'1f\r\ndata: {"finish_reason":"stop"}\n\n\r\n',
    b"e\r\ndata: [DONE]\n\n\r\n",
    b"0\r\n\r\n",
)
WHOLE = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\nhello"


def attempt(method: str = "POST") -> Attempt:
    return Attempt(1, 0.0, 0.0, "c", 1, method, "/v1/completions", "", {})


def test_stream_is_followed_to_its_end() -> None:
    """The last token, [DONE], and the last chunk are three things."""
    one = attempt()
    seen = []
    for time, data in enumerate(STREAM, 1):
        one.feed(data, float(time))
        seen.append((one.has_finished, one.is_done, one.is_complete))
    assert seen == [(False, False, False)] * 2 + [
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    assert (one.status, one.is_stream, one.first_byte, one.last_byte) == (200, True, 1.0, 5.0)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_bytes_may_come_in_any_parts(size: int) -> None:
    """Also one by one."""
    for data, status in ((b"".join(STREAM), 200), (WHOLE, 429)):
        one = attempt()
        for k in range(0, len(data), size):
            assert not one.is_complete
            one.feed(data[k : k + size], 1.0)
        assert (one.is_complete, one.status) == (True, status)


def test_whole_reply_ends_with_its_length() -> None:
    """And says how long to wait."""
    one = attempt()
    one.feed(WHOLE, 2.0)
    assert (one.retry_after_s, one.is_stream, one.over) == (3.0, False, 2.0)


def test_longest_pause_is_kept() -> None:
    """Between two bytes, or since the last one."""
    one = attempt()
    for time, data in zip((1.0, 2.0, 9.0), STREAM, strict=False):
        one.feed(data, time)
    assert one.longest_pause_s == 7.0
    assert one.pause_s(now=30.0) == 21.0
    assert "under way" in str(one.shown())


def test_word_before_the_reply_is_none() -> None:
    """`100 Continue`, which curl asks for before a large body."""
    one = attempt()
    one.feed(b"HTTP/1.1 100 Continue\r\n\r\n", 1.0)
    assert (one.status, one.is_complete) == (0, False)
    one.feed(WHOLE, 2.0)
    assert (one.status, one.is_complete, one.num_body_bytes) == (429, True, 5)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("OPTIONS", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
def test_reply_without_a_body_ends_with_its_head(method: str, head: bytes) -> None:
    """Whatever length is announced."""
    one = attempt(method)
    one.feed(head, 1.0)
    assert one.is_complete
