"""A standby process: it has imported vLLM and waits for an order, to be the next engine of its model.

It takes memory of the machine, and none of a GPU. One that ends is replaced after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from server.config.model import ModelSettings
from server.engine.vllm.processes import HOST, EngineProcess

log = logging.getLogger(__name__)

AGAIN_S = 60.0  # the reason that ended one, such as a lack of memory, may end the next one as well


class Standby:
    """The standby of one model: its environment, which lists its GPUs, belongs to the process
    from its start."""

    def __init__(self, model: ModelSettings, program: Sequence[str] = HOST, again_s: float = AGAIN_S) -> None:
        self._model = model
        self._program = program
        self._again_s = again_s
        self._spare: EngineProcess | None = None
        self._wanted, self._taken = asyncio.Event(), asyncio.Event()

    def take(self) -> EngineProcess:
        """The process for an engine that starts: the standby, or a new one if there is none."""
        spare, self._spare = self._spare, None
        if spare is None or not spare.lives:
            return EngineProcess(self._program)
        self._taken.set()
        return spare

    def want(self) -> None:
        """An engine is ready, so the next standby can start."""
        self._wanted.set()

    async def run(self) -> None:
        """Keep a standby after each `want`. When cancelled, none is left."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            how = await self._one()
            if not self._taken.is_set():
                log.warning(
                    "model %s: the standby process %s; starting another one in %g s",
                    self._model.id,
                    how,
                    self._again_s,
                )
                await asyncio.sleep(self._again_s)
                self._wanted.set()

    async def _one(self) -> str:
        """Run one standby. Returns when it is taken, or with how it has ended."""
        spare, how = EngineProcess(self._program), ""
        self._taken.clear()
        taken = asyncio.create_task(self._taken.wait())
        try:
            ended = await spare.launch(self._model)
            self._spare = spare
            await asyncio.wait((taken, ended), return_when=asyncio.FIRST_COMPLETED)
            if not self._taken.is_set():
                how = await spare.ended()
        except OSError as error:
            how = f"could not be started, {error.strerror}"
        finally:
            taken.cancel()
            if not self._taken.is_set():
                self._spare = None
                await spare.stop(0)
        return how
