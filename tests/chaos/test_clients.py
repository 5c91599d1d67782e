"""What becomes of the others when many clients are slow, or never say what they want."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.chaos.exchange import Exchange, ask, request_of
from tests.chaos.conftest import Subject, at_once
from tests.serving import CAPITAL, TINY, wait_for

pytestmark = pytest.mark.engine

NUM_SLOW, NUM_DEAF, NUM_HALF = 64, 16, 500
# Half a megabyte of text for each: more than the two kernels keep for a connection.
LONG: dict[str, Any] = {
    "model": TINY,
    "prompt": CAPITAL,
    "max_tokens": 200,
    "ignore_eos": True,
    "temperature": 0,
    "logprobs": 5,
    "stream": True,
}
MOST_MORE_MIB = 60  # of both processes, while that many are waited for
SOON_S = 30.0


@pytest.mark.long
def test_slow_readers_hold_nobody_up(two: Subject) -> None:
    """64 streams of which each is read at 40 kB a second: all are whole, and replies beside them are at once,
    and as ever."""
    before = two.footprint()
    slow = [Exchange({**LONG, "prompt": f"{CAPITAL} {k}"}) for k in range(NUM_SLOW)]
    expected = at_once(two.port, [one.body for one in slow])
    quick = [Exchange(body) for body in two.bodies]

    async def run() -> tuple[float, float]:
        began = time.monotonic()
        reading = [asyncio.create_task(ask(two.port, one, slowly=True)) for one in slow]
        while not all(one.received for one in slow):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.gather(*(ask(two.port, one) for one in quick))
        quick_s = time.monotonic() - began
        most_mib = two.footprint().front_mib
        await asyncio.gather(*reading)
        return quick_s, most_mib

    quick_s, most_mib = asyncio.run(run())
    assert two.differences(quick) == []
    for one, other in zip(slow, expected, strict=True):
        assert one.reply().difference(other.reply()) == ""
    assert quick_s < 30
    assert most_mib < before.front_mib + MOST_MORE_MIB
    two.settle(before.num_files)


@pytest.mark.long
def test_readers_that_take_nothing_are_cut_off(two: Subject) -> None:
    """After slow_reader_timeout_s their work ends, and their connections."""
    before = two.footprint()
    with contextlib.ExitStack() as stack:
        for k in range(NUM_DEAF):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", two.port))
            body = {**LONG, "prompt": f"{CAPITAL} {k}", "n": 16}
            connection.sendall(request_of(body))
        wait_for(lambda: two.footprint().num_files != before.num_files, SOON_S)
        two.settle(before.num_files)


@contextlib.contextmanager
def half_requests(port: int) -> Iterator[list[socket.socket]]:
    """500 of them: cut in the head, or in the body, after its first byte or before its last."""
    request = request_of(LONG)
    with contextlib.ExitStack() as stack:
        connections = []
        for k in range(NUM_HALF):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(request[: 1 + k * (len(request) - 2) // (NUM_HALF - 1)])
            connections.append(connection)
        yield connections


@pytest.mark.long
def test_half_requests_hold_nobody_up(two: Subject) -> None:
    """500 at once: others are answered as ever; each of them gets a 408 after receive_timeout_s, and goes."""
    before = two.footprint()
    with half_requests(two.port) as connections:
        assert two.differences(at_once(two.port, two.bodies)) == []
        said = []
        for connection in connections:
            connection.settimeout(20)
            said.append(connection.makefile("rb").read())
    assert [one.split(b"\r\n", 1)[0] for one in said] == [b"HTTP/1.1 408 Request Timeout"] * NUM_HALF
    assert all(b"receive_timeout_s" in one for one in said)
    assert two.footprint().front_mib < before.front_mib + MOST_MORE_MIB
    two.settle(before.num_files)
