"""An event loop that stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import server.observe.stalls as stalls
from server.observe.stalls import LoopWatch
from tests.helpers import until
from tests.serving import wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 s is a stall, which on a busy machine does not happen of itself."""
    monkeypatch.setattr(stalls, "STALL_S", 0.4)
    monkeypatch.setattr(stalls, "BEAT_S", 0.01)
    monkeypatch.setattr(stalls, "UNWELL_S", 0.6)


@asynccontextmanager
async def watched(stall_seen: list[float]) -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(lambda: stall_seen.append(time.monotonic()))
    task = asyncio.create_task(watch.watch())
    await asyncio.sleep(0.03)
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def in_the_way(seconds: float) -> None:
    """What does not let the loop go on."""
    time.sleep(seconds)


def in_the_way_until(happened: Callable[[], object]) -> None:
    """As well."""
    wait_for(happened, 30)


async def test_a_stall_is_told_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the place where the loop stands; and its end."""
    seen: list[float] = []
    async with watched(seen) as watch:
        in_the_way_until(lambda: seen and caplog.records)
        await until(lambda: not watch.is_well)
    assert len(seen) == 1
    during, after = [record.getMessage() for record in caplog.records]
    assert "has stood still" in during
    assert "in_the_way_until(" in during
    assert "runs again, after" in after


async def test_it_is_unwell_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever asks now and then learns of it; then it is well again."""
    monkeypatch.setattr(stalls, "UNWELL_S", 60.0)
    async with watched([]) as watch:
        assert watch.is_well
        in_the_way(0.5)
        await until(lambda: not watch.is_well)
        assert watch.last_stall_s >= 0.5
        await asyncio.sleep(0.1)
        assert not watch.is_well
        watch._ended_at -= 60.0
        assert watch.is_well


async def test_each_stall_counts() -> None:
    """Also where the thread that watches could not run either, and only the loop itself finds out."""
    seen: list[float] = []
    async with watched(seen) as watch:
        for number in (1, 2):
            in_the_way(0.5)
            await until(lambda number=number: len(seen) == number and not watch._is_told)  # type: ignore[misc]
        watch._beat_at -= 1.0
        await until(lambda: len(seen) == 3 and not watch._is_told)
        assert watch.last_stall_s >= 1.0


async def test_work_that_lets_others_go_on_is_no_stall() -> None:
    """However much of it."""
    seen: list[float] = []
    async with watched(seen) as watch:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            in_the_way(0.005)
            await asyncio.sleep(0)
        assert watch.is_well
    assert seen == []
