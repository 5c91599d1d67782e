"""Gathers deltas into fewer and larger chunks, if the request or the server asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.generation.outputs import Delta, merged


class Gathering:
    """Holds back deltas of a choice until they are enough for a chunk. The first and the last are
    never held back.

    take: called with the gathered deltas. tokens: the least number in a chunk. interval_ms: the least time
    between two chunks.
    """

    def __init__(self, take: Callable[[list[Delta]], None], tokens: int, interval_ms: float) -> None:
        self._take = take
        self._tokens = tokens
        self._interval_s = interval_ms / 1000
        self._held: list[Delta] = []
        self._begun: set[int] = set()  # choices that have had their first chunk
        self._timer: asyncio.TimerHandle | None = None

    def push(self, deltas: list[Delta]) -> None:
        self._held = merged([*self._held, *deltas])
        self._give([delta for delta in self._held if self._is_due(delta)])

    def flush(self) -> None:
        """Let go of everything that is held back."""
        self._give(self._held)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _is_due(self, delta: Delta) -> bool:
        if delta.finish_reason is not None or delta.index not in self._begun:
            return True
        return self._timer is None and delta.num_tokens >= self._tokens

    def _give(self, deltas: list[Delta]) -> None:
        if not deltas:
            return
        gone = {delta.index for delta in deltas}
        self._held = [delta for delta in self._held if delta.index not in gone]
        self._begun |= {delta.index for delta in deltas if delta.text or delta.logprobs or delta.token_ids}
        if self._interval_s and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._on_time)
        self._take(deltas)

    def _on_time(self) -> None:
        self._timer = None
        self.push([])
