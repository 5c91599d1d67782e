"""Requests that come at once begin a few at a time, and in order."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

import pytest

from server.http.entrance import AT_ONCE, Entrance, next_stage


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_few_at_a_time(extra: int) -> None:
    """Each turn of the loop lets as many begin, and they pass the first stage before the next ones begin."""
    entrance, seen = Entrance(), list[tuple[str, int]]()
    tasks = list[asyncio.Task[None]]()

    async def request(number: int) -> None:
        seen.append(("begins", number))
        await next_stage()
        seen.append(("goes on", number))

    def begin(number: int) -> None:
        tasks.append(asyncio.create_task(request(number)))

    count = 3 * AT_ONCE + extra
    for number in range(count):
        entrance.enter(partial(begin, number))
    assert len(tasks) == AT_ONCE
    for _ in range(4):  # turns
        await asyncio.sleep(0)
    assert len(tasks) == count
    await asyncio.gather(*tasks)
    assert [number for what, number in seen if what == "begins"] == [*range(count)]
    groups = [range(k * AT_ONCE, (k + 1) * AT_ONCE) for k in range(3)]
    for first, second in pairwise(groups):
        assert seen.index(("begins", first[-1])) < seen.index(("begins", second[0]))
    for first, third in zip(groups, groups[2:], strict=False):
        assert seen.index(("goes on", first[-1])) < seen.index(("begins", third[0]))


async def test_a_lone_request_does_not_wait() -> None:
    entrance, begun = Entrance(), list[int]()
    for number in range(3):
        entrance.enter(partial(begun.append, number))
        assert begun[-1] == number
        await asyncio.sleep(0)


async def test_those_that_come_later_wait_behind() -> None:
    """While some wait, the next one does too, although this turn has room for it."""
    entrance, begun = Entrance(), list[int]()
    for number in range(AT_ONCE + 1):
        entrance.enter(partial(begun.append, number))
    await asyncio.sleep(0)
    entrance.enter(partial(begun.append, AT_ONCE + 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == [*range(AT_ONCE + 2)]
