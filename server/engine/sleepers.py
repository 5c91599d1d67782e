"""Sleeping engines of a model: they keep their processes and free their devices' memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from server.engine.base import Engine, Sleeper
from server.errors import Failure

log = logging.getLogger(__name__)


class Sleepers:
    """The sleeping engines, by the numbers of their replicas. name: of the model. on_death: called when one
    has ended unexpectedly."""

    def __init__(self, name: str, on_death: Callable[[], None]) -> None:
        self._name = name
        self._on_death = on_death
        self._engines: dict[int, Sleeper] = {}
        self._watching: dict[int, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._engines)

    def keep(self, engines: Mapping[int, Engine | None]) -> None:
        """Keep these engines, as far as they can sleep: they are ready, and get no more jobs."""
        self._engines |= {number: one for number, one in engines.items() if isinstance(one, Sleeper)}

    async def sleep(self) -> None:
        """Put to sleep those that do not sleep yet. One that cannot is closed."""
        await asyncio.gather(
            *(self._sleep(number) for number in self._engines.keys() - self._watching.keys())
        )

    def take(self, number: int) -> Sleeper | None:
        """The engine of that number, to be woken; None: there is none."""
        if (watching := self._watching.pop(number, None)) is not None:
            watching.cancel()
        return self._engines.pop(number, None)

    async def end(self, numbers: Collection[int] | None = None) -> None:
        """Close the engines of these numbers; None: all."""
        ended = [self.take(number) for number in ([*self._engines] if numbers is None else numbers)]
        await asyncio.gather(*(one.close() for one in ended if one is not None))

    async def _sleep(self, number: int) -> None:
        engine = self._engines[number]
        try:
            await engine.sleep()
        except Failure as failure:
            log.warning(
                "model %s: an engine could not go to sleep and is ended: %s", self._name, failure.message
            )
            await self.end((number,))
        else:
            self._watching[number] = asyncio.create_task(self._watch(number, engine))

    async def _watch(self, number: int, engine: Engine) -> None:
        death = await engine.died()
        log.error("model %s: an engine that slept has ended: %s", self._name, death.how)
        del self._engines[number], self._watching[number]
        await engine.close()
        self._on_death()
