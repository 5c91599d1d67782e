from __future__ import annotations

import asyncio

import pytest

from server.http.eager import begin


async def test_without_waiting() -> None:
    """A coroutine with nothing to wait for has ended when begin returns, and no task was made."""
    done = []

    async def work() -> None:
        done.append(1)

    before = asyncio.all_tasks()
    assert begin(work()) is None
    assert (done, asyncio.all_tasks()) == ([1], before)


async def test_rest() -> None:
    """One that waits has run up to there; its rest gives its result to whoever awaits it."""
    event, seen = asyncio.Event(), []

    async def work() -> str:
        seen.append("begun")
        await event.wait()
        await asyncio.sleep(0)
        return "result"

    rest = begin(work())
    assert rest is not None
    assert seen == ["begun"]
    asyncio.get_running_loop().call_soon(event.set)
    assert await rest == "result"


async def test_failures_come_through() -> None:
    """What a coroutine raises is raised, by begin before it has waited and by its rest afterwards."""

    async def work(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        begin(work(False))
    rest = begin(work(True))
    assert rest is not None
    with pytest.raises(ValueError, match="no"):
        await rest


async def test_cancelling_the_rest() -> None:
    """A cancellation reaches the coroutine, which tidies up."""
    tidied = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tidied.append(1)

    rest = begin(work())
    assert rest is not None
    task = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), tidied) == (True, [1])
