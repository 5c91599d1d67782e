"""Requests that come at once are taken in a few at a time, and together, stage by stage.

A stage that has just run for another request finds its code and tables in the processor's cache; a request
that goes all the way alone fetches everything anew, which takes longer than the work. And between two stages
the event loop serves its connections and engines, so that running streams wait for one stage of a few
requests, not for all that have come.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 16  # requests that begin in the same turn of the event loop


class Entrance:
    """Where requests of one event loop begin, in the order in which they came."""

    def __init__(self) -> None:
        self._num_begun = 0  # in this turn of the loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Return when it is this request's turn: at once, unless many have come."""
        loop = asyncio.get_running_loop()
        if self._num_begun == AT_ONCE or self._waiting:
            self._waiting.append(turn := loop.create_future())
            await turn
            return
        if not self._num_begun:
            loop.call_soon(self._next_turn)
        self._num_begun += 1

    def _next_turn(self) -> None:
        self._num_begun = min(len(self._waiting), AT_ONCE)
        for _ in range(self._num_begun):
            if not (turn := self._waiting.popleft()).done():  # else the request was cancelled
                turn.set_result(None)
        if self._num_begun:
            asyncio.get_running_loop().call_soon(self._next_turn)


async def next_stage() -> None:
    """Let the requests that began with this one finish the stage."""
    await asyncio.sleep(0)
