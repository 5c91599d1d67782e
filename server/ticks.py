"""The moments at which this process looks at things."""

from __future__ import annotations

import asyncio

ALMOST = 0.1  # of the time between two moments: one that is so near is left out


async def tick(every_s: float) -> None:
    """Sleep until the next moment."""
    await asyncio.sleep(next_in_s(every_s))


def next_in_s(every_s: float) -> float:
    """Seconds until the next moment, which is the next multiple of every_s on the loop's clock.

    Whatever looks at something now and then does so at the same moments: after an idle time all code has left
    the processor's cache, so that waking costs more than a look, in the end a fifth of a lone stream's time.
    """
    since = asyncio.get_running_loop().time() % every_s
    left_s = every_s - since
    return left_s if left_s > ALMOST * every_s else left_s + every_s
