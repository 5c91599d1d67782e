"""Runs coroutines that rarely wait at once, without a task.

A task for each token costs more than the token. asyncio's eager tasks of Python 3.12 do the same. The
coroutine must not ask for the current task, as a timeout does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


class Rest:
    """A coroutine that has begun and waits; `await` it to have it finished."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                # A cancellation, say, which concerns the coroutine
                except BaseException as error:  # noqa: BLE001
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration as stop:
            return stop.value


def begin(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Rest | None:
    """Run a coroutine until it has to wait. None: it has ended. Raises what it raises.

    Awaitable: ASGI's type for the result of `send`, which is a coroutine.
    """
    assert isinstance(coroutine, Coroutine)
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return Rest(coroutine, waits_for)
