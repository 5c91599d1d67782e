"""Requests that come at once begin a few at a time, and together, stage by stage.

A stage that has just run for another request finds its code and tables in the processor's cache; a request
that goes all the way alone fetches everything anew, which takes longer than the work. And between two stages
the event loop serves its connections and engines, so that running streams wait for one stage of a few
requests, not for all that have come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 16  # requests that begin in the same turn of the event loop


class Entrance:
    """Where the requests of one event loop begin, in the order in which they came."""

    def __init__(self) -> None:
        self._num_begun = 0  # in this turn of the loop
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Have a request begin: at once, unless many have come."""
        if self._num_begun == AT_ONCE or self._waiting:
            self._waiting.append(begin)
            return
        if not self._num_begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._num_begun += 1
        begin()

    def _next_turn(self) -> None:
        self._num_begun = min(len(self._waiting), AT_ONCE)
        if self._num_begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        for _ in range(self._num_begun):
            self._waiting.popleft()()


async def next_stage() -> None:
    """Let the requests that began with this one finish the stage."""
    await asyncio.sleep(0)
