"""What looks at something now and then."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from server.ticks import next_in_s, tick

EVERY_S = 0.2


async def test_all_come_at_the_same_moments() -> None:
    """Whenever they have begun."""
    loop, came = asyncio.get_running_loop(), list[list[float]]()

    async def looks(after_s: float) -> None:
        await asyncio.sleep(after_s)
        came.append(moments := [])
        for _ in range(3):
            await tick(EVERY_S)
            moments.append(loop.time() % EVERY_S)

    await asyncio.gather(looks(0.0), looks(0.03), looks(0.07))
    phases = [phase for moments in came for phase in moments]
    assert max(min(phase, EVERY_S - phase) for phase in phases) < EVERY_S / 4


async def test_one_that_is_nearly_there_is_left_out() -> None:
    """A timer that comes a little early is not followed by another one at once."""
    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(200):
        waits.append((loop.time() % 0.01, next_in_s(0.01)))
        await asyncio.sleep(0.0003)
    assert all(0.001 <= wait_s <= 0.011 for _, wait_s in waits)
    assert any(earlier[1] < later[1] for earlier, later in pairwise(waits))
