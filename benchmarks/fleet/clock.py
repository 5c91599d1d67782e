"""An event loop with virtual time: the clock jumps to the time that the next call waits for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Nothing(selectors.SelectSelector):
    """A selector that never has anything to read; waiting for it advances the time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: a coroutine waits for what nobody does")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """loop.time() is 0 at the beginning; in seconds."""

    def __init__(self) -> None:
        self._nothing = _Nothing()
        super().__init__(self._nothing)

    def time(self) -> float:
        return self._nothing.now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback has failed, so the run fails."""
        raise context.get("exception") or RuntimeError(context["message"])


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
