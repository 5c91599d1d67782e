"""What keys have used, in memory that processes share. A second view of a file is another process's."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import memory, tallies
from server.access.limits import RateLimits
from server.access.memory import Memory
from server.access.tallies import ROOM, WINDOW_S, Tallies
from server.access.terms import Key
from server.errors import RateLimitExceeded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tallies"


def test_processes_count_together(file: Path) -> None:
    """What one adds, and has running, another sees."""
    first, second = Tallies(file, 0).of("a"), Tallies(file, 1).of("a")
    first.requests.add(2, 1000.0)
    second.requests.add(3, 1000.0)
    first.begin()
    second.begin()
    assert (first.requests.total(1000.0), second.requests.total(1059.0), first.running) == (5, 5, 2)


STEPS = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 9), st.booleans()), max_size=60)


@given(STEPS)
def test_the_sum_of_a_minute(steps: list[tuple[float, int, bool]]) -> None:
    """Of what was added and not taken back, each second's until a minute after the last of it."""
    window, now, seconds = Tallies().of("a").tokens, 1000.0, dict[int, tuple[float, int]]()
    added, much = now, 0
    for pause, amount, takes_back in steps:
        now += pause
        if takes_back:
            window.take_back(much, added, now)
            last, before = seconds.get(int(added), (0.0, 0))
            seconds[int(added)] = last, before - much
            much = 0
        else:
            added, much = now, amount
            window.add(amount, now)
            seconds[int(now)] = now, seconds.get(int(now), (0.0, 0))[1] + amount
        assert window.total(now) == sum(much for last, much in seconds.values() if last + WINDOW_S > now)


def test_one_that_is_killed_while_it_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves a sum that is wrong until the first of what it adds up has ended to count, and no longer."""
    window = Tallies(file).of("a").tokens
    window.add(1, 1000.0)
    with monkeypatch.context() as patch:
        patch.setattr(tallies, "SUM", Killed(tallies.SUM))
        with pytest.raises(KeyboardInterrupt):
            window.add(5, 1010.0)
    window = Tallies(file, 1).of("a").tokens
    assert (window.total(1059.0), window.total(1060.0)) == (1, 5)
    window.add(2, 1061.0)
    assert window.total(1069.0) == 7


class Killed:
    """Reads, and does not come to write."""

    def __init__(self, struct: Struct) -> None:
        self.size, self.unpack_from = struct.size, struct.unpack_from

    def pack_into(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_a_key_of_each(file: Path) -> None:
    """Tallies that others have made meanwhile are found, however many there are."""
    ones = [Tallies(file, number) for number in range(3)]
    names = [f"key-{number}" for number in range(4 * ROOM)]
    for number, name in enumerate(names):
        ones[number % 3].of(name).tokens.add(number, 1000.0)
    for one in ones:
        assert [one.of(name).tokens.total(1000.0) for name in names] == [*range(4 * ROOM)]


def test_a_process_that_has_ended(file: Path) -> None:
    """What it had running is given back, also of keys that the first process has not heard of; what it has
    used in this minute stays."""
    first, second = Tallies(file, 0), Tallies(file, 1)
    of_first, of_second = first.of("a"), second.of("a")
    of_first.begin()
    for tally in (of_second, second.of("b")):
        tally.begin()
        tally.requests.add(1, 1000.0)
    first.forget(1)
    assert [first.of(name).running for name in "ab"] == [1, 0]
    assert [first.of(name).requests.total(1000.0) for name in "ab"] == [1, 1]


def hammer(file: Path, process: int, admitted: multiprocessing.SimpleQueue[int]) -> None:
    limits, count = RateLimits(Tallies(file, process), lambda: 1000.0), 0
    for _ in range(500):
        try:
            limits.of(Key("a", requests_per_minute=600)).begin()
            count += 1
        except RateLimitExceeded:
            pass
    admitted.put(count)


def test_no_request_too_many(file: Path) -> None:
    """Of a thousand in two processes at once exactly as many are let through as may be."""
    context = multiprocessing.get_context("fork")
    admitted: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    processes = [context.Process(target=hammer, args=(file, number, admitted)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert admitted.get() + admitted.get() == 600


def hold(file: Path, held: multiprocessing.SimpleQueue[bool]) -> None:
    with Memory(file, 1) as is_locked:
        held.put(is_locked)
        time.sleep(60)


def test_one_that_is_stopped_with_the_lock(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops nobody: requests are let through uncounted, at once after the first; when it has been killed,
    they count again."""
    monkeypatch.setattr(memory, "GIVEN_UP_S", 60.0)
    limits, key = RateLimits(Tallies(file)), Key("a", requests_per_minute=1, concurrent_requests=1)
    context = multiprocessing.get_context("fork")
    held: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    process = context.Process(target=hold, args=(file, held))
    process.start()
    try:
        assert held.get()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        with caplog.at_level(logging.ERROR):
            for _ in range(100):
                limits.of(key).begin()
        assert caplog.text.count("holds the lock") == 1, "waited for more than once"
    finally:
        process.kill()
        process.join()
    limits.of(key).begin()
    with pytest.raises(RateLimitExceeded):
        limits.of(key).begin()
