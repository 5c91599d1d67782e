"""Requests that come at once begin a few at a time, and in order."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from server.http.entrance import AT_ONCE, Entrance, next_stage


async def test_a_few_at_a_time() -> None:
    """Each turn of the loop lets as many begin, and they pass the first stage before the next ones begin."""
    entrance, seen = Entrance(), list[tuple[str, int]]()

    async def request(number: int) -> None:
        await entrance.enter()
        seen.append(("begins", number))
        await next_stage()
        seen.append(("goes on", number))

    await asyncio.gather(*(request(number) for number in range(3 * AT_ONCE)))
    groups = [range(k * AT_ONCE, (k + 1) * AT_ONCE) for k in range(3)]
    assert [number for what, number in seen if what == "begins"] == [*range(3 * AT_ONCE)]
    for first, second in pairwise(groups):
        assert seen.index(("goes on", first[0])) < seen.index(("begins", second[-1]))
        assert seen.index(("begins", first[-1])) < seen.index(("begins", second[0]))


async def test_a_lone_request_does_not_wait() -> None:
    entrance = Entrance()
    for _ in range(3):
        entering = entrance.enter()
        try:
            entering.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("it waits")
        await asyncio.sleep(0)


async def test_one_that_is_cancelled_holds_up_nobody() -> None:
    entrance, begun = Entrance(), list[int]()

    async def request(number: int) -> None:
        await entrance.enter()
        begun.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(2 * AT_ONCE + 2)]
    await asyncio.sleep(0)
    tasks[AT_ONCE].cancel()
    tasks[AT_ONCE + 1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == [*range(AT_ONCE), *range(AT_ONCE + 2, 2 * AT_ONCE + 2)]
