"""A process in reserve, played by a small program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from server.config.model import ModelSettings
from server.engine.vllm.standby import Standby
from tests.helpers import until
from tests.server.engine.vllm.test_processes import ORDER, is_there, wait_until_gone

# Says which process it is once it has an order.
WAITS = """
import os, sys, time
if sys.stdin.readline():
    print('{"runner": "%d"}' % os.getpid(), flush=True)
    time.sleep(60)
"""
MODEL = ModelSettings(id="m", path=Path("m"))


@asynccontextmanager
async def reserve(again_s: float = 60.0) -> AsyncIterator[Standby]:
    standby = Standby(MODEL, ["-c", WAITS], again_s)
    running = asyncio.create_task(standby.run())
    try:
        yield standby
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def spare_of(standby: Standby, other_than: int = 0) -> int:
    """The number of the process in reserve, once there is one."""
    await until(lambda: standby._spare is not None and standby._spare.pid != other_than)
    assert standby._spare is not None
    pid = standby._spare.pid
    assert pid is not None
    return pid


async def test_an_engine_takes_it() -> None:
    """The process that waits is the engine's, and lives on when the reserve is given up."""
    async with reserve() as standby:
        standby.want()
        pid = await spare_of(standby)
        process = standby.take()
    news = await anext(process.start(ORDER))
    assert int(news.runner) == pid
    await process.stop(0)


async def test_none_before_an_engine_is_ready() -> None:
    """The first start has the machine for itself, and a process of its own."""
    async with reserve() as standby:
        await asyncio.sleep(0.05)
        assert standby._spare is None
        assert standby.take().pid is None


async def test_each_engine_that_is_ready_brings_another() -> None:
    """One that was taken is followed by the next, and not before it is wanted."""
    async with reserve() as standby:
        standby.want()
        first = await spare_of(standby)
        process = standby.take()
        await asyncio.sleep(0.05)
        assert standby._spare is None
        standby.want()
        assert await spare_of(standby) != first
        assert is_there(first)
        await process.stop(0)


async def test_one_that_has_ended() -> None:
    """Is not an engine's, and another one takes its place."""
    async with reserve(again_s=0.1) as standby:
        standby.want()
        first = await spare_of(standby)
        psutil.Process(first).kill()
        await until(lambda: standby._spare is None)
        assert standby.take().pid is None
        await spare_of(standby, other_than=first)


async def test_none_is_left() -> None:
    """It ends with the reserve, also when it was never used."""
    async with reserve() as standby:
        standby.want()
        pid = await spare_of(standby)
    wait_until_gone(pid)
