"""What becomes of requests when the next engine does not start either."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.exchange import Exchange
from benchmarks.chaos.faults import engines
from tests.chaos.conftest import Subject, assert_gone, at_once, subject
from tests.serving import tiny_model, wait_for

pytestmark = pytest.mark.engine

NUM_STARTS = 5


@contextlib.contextmanager
def deadly(pid: int, num_deaths: int) -> Iterator[list[psutil.Process]]:
    """kill -9 for that many engines, each as soon as it is there. Gives those that have died."""
    killed: list[psutil.Process] = []
    is_over = threading.Event()

    def watch() -> None:
        while len(killed) < num_deaths and not is_over.wait(0.05):
            with contextlib.suppress(psutil.NoSuchProcess):
                for engine in engines(pid):
                    if engine not in killed:
                        engine.kill()
                        killed.append(engine)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield killed
    finally:
        is_over.set()
        watching.join()


@pytest.mark.long
def test_five_starts_that_fail(tiny_path: Path, short_path: Path) -> None:
    """With keep_trying, requests wait for the sixth engine, and their replies are as without; new ones are
    told to come back."""
    config = {"models": [tiny_model(tiny_path)], "keep_trying": True}
    with subject(short_path, config) as one:
        one.learn(8, sampled=False)
        num_files = one.footprint().num_files
        exchanges, killed = at_five_deaths(one)
        assert one.differences(exchanges) == []
        said = one.server.said()
        failed = "the engine did not start: the engine process ended, by signal 9; restarting it"
        assert [f"{failed} ({number})" in said for number in range(2, 2 + NUM_STARTS)] == [True] * NUM_STARTS
        assert_gone(killed)
        one.settle(num_files)


def at_five_deaths(one: Subject) -> tuple[list[Exchange], list[psutil.Process]]:
    """The running engine, and the five that follow it."""
    deaths: list[list[psutil.Process]] = []
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            deaths.append(stack.enter_context(deadly(one.pid, 1 + NUM_STARTS)))
            wait_for(lambda: deaths[0], 30)

        exchanges = at_once(one.port, one.bodies, begin)
    return exchanges, deaths[0]
