"""Starts more engines of a model when its requests wait, and ends some when they do not, on
this machine's GPUs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from server.engine.replicas import Replicas
from server.engine.scaling import Scale
from server.engine.served import ServedModel
from server.ticks import tick

log = logging.getLogger(__name__)

LOOK_S = 0.5


class Scaling:
    """served: returns the models that requests can name. removed: called with a model's engines and the
    number of a replica that has ended. num_processes: processes that send jobs to the engines,
    about equally many."""

    def __init__(
        self,
        served: Callable[[], Iterable[ServedModel]],
        removed: Callable[[Replicas, int], None],
        num_processes: int = 1,
    ) -> None:
        self._served = served
        self._removed = removed
        self._num_processes = num_processes
        self._scales: dict[Replicas, Scale] = {}
        self._leaving: dict[Replicas, set[int]] = {}

    async def run(self) -> None:
        """Scale until cancelled."""
        while True:
            models = [model for model in self._served() if not model.settings.replicas.is_fixed]
            for gone in self._scales.keys() - {model.engine for model in models}:
                self._forget(gone)
            for model in models:
                if not model.engine.changing.locked():  # a reload is changing it
                    async with model.engine.changing:
                        await self._look(model)
            await tick(LOOK_S)

    async def _look(self, model: ServedModel) -> None:
        engine, leaving = model.engine, self._leaving.setdefault(model.engine, set())
        leaving &= engine.supervisors.keys()
        staying = sorted(engine.supervisors.keys() - leaving)
        scale = self._scale(model, len(staying))
        num_jobs = engine.pending * self._num_processes
        wanted = scale.look(time.monotonic(), engine.work.longest_wait_s, num_jobs, engine.num_ready)
        if wanted > len(staying):
            self._grow(model, wanted - len(staying))
        for number in staying[wanted:]:
            leaving.add(number)
            engine.work.drain(number)
        for number in [one for one in leaving if not engine.work.num_placed(one)]:
            leaving.discard(number)
            log.info("model %s: replica %d is idle, and ends", model.id, number)
            await engine.remove(number)
            self._removed(engine, number)

    def _forget(self, engine: Replicas) -> None:
        """Stop scaling: the number of engines is fixed now, or the model was removed. Replicas that were to
        end stay."""
        del self._scales[engine]
        for number in self._leaving.pop(engine, set()) & engine.supervisors.keys():
            engine.work.drain(number, is_leaving=False)

    def _scale(self, model: ServedModel, count: int) -> Scale:
        """The scale of a model, with its current range."""
        asked, places = model.settings.replicas, model.settings.max_num_seqs
        known = self._scales.get(model.engine)
        if known is None or (known.asked, known.places) != (asked, places):
            known = self._scales[model.engine] = Scale(asked, places, count)
        return known

    def _grow(self, model: ServedModel, count: int) -> None:
        """Grow by keeping replicas that were to end, then by starting new ones."""
        engine, leaving = model.engine, self._leaving[model.engine]
        for number in sorted(leaving)[:count]:
            leaving.discard(number)
            engine.work.drain(number, is_leaving=False)
            count -= 1
        free = (number for number in range(model.settings.replicas.max) if number not in engine.supervisors)
        for number in [number for number, _ in zip(free, range(count), strict=False)]:
            log.info("model %s: requests wait; replica %d starts", model.id, number)
            engine.add(number)
