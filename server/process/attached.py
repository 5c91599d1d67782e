"""The models of a worker: each is attached to an engine that the main process runs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.base import Engine, Status
from server.engine.served import ServedModel, adapters_of, load_models
from server.engine.trials import Trials
from server.engine.vllm.attached import AttachedEngine, Feed
from server.http.metrics import Metrics
from server.process.adopted import Adopted, tell
from server.process.workers import LEAVING_S, link_folder, trials_folder

POLL_S = 0.05


class AttachedModels:
    """folder: shared by the processes. worker: the number of this one. Models have numbers too, which are
    never reused: another model with the same id gets another number."""

    def __init__(self, folder: Path, worker: int, metrics: Metrics) -> None:
        self._folder = folder
        self._worker = worker
        self._metrics = metrics
        self._feeds: defaultdict[tuple[int, int], Feed] = defaultdict(Feed)  # by model and replica
        self._models: dict[int, ServedModel] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._generation = 0
        self._over: asyncio.Future[None] | None = None

    def load(self, settings: Settings, numbers: Mapping[str, int]) -> list[ServedModel]:
        """The models of these settings: existing ones are kept, others are read from their directories.
        Raises as load_models."""
        new = [model for model in settings.models if numbers[model.id] not in self._models]

        def make(_: int, model: ModelSettings, context_size: int, replica: int) -> Engine:
            number = numbers[model.id]
            link = link_folder(self._folder, number, replica, self._worker)
            link.mkdir(exist_ok=True)  # otherwise the main process makes it after it has verified the weights
            stats = self._metrics.engines.of(model.id, replica)
            return AttachedEngine(self._feeds[number, replica], link, self._worker, stats)

        for model in load_models(settings.model_copy(update={"models": tuple(new)}), make):
            number = numbers[model.id]
            model.engine.work.suspects.trials = Trials(trials_folder(self._folder, number))
            model.engine.patience.backoff_s = (0.0,)  # the main process decides how long to wait
            model.engine.losses = partial(self._metrics.losses.of, model.id, is_owner=False)
            self._models[number] = model
        return [
            self._models[numbers[model.id]].with_settings(model, adapters_of(model))
            for model in settings.models
        ]

    async def tell(self, number: int, replica: int, status: Status | None) -> None:
        """Report the status of a replica of a model. None: there is no such replica any more."""
        model = self._models.get(number)
        is_known = model is not None and replica in model.engine.supervisors
        if status is not None:
            self._feeds[number, replica].tell(status)
            if model is not None and not is_known:
                model.engine.add(replica)
        elif model is not None and is_known:
            await model.engine.remove(replica)
            del self._feeds[number, replica]

    async def run(self) -> None:
        """Work with the engines until cancelled. Raises if the watch over one of them fails."""
        self._over = asyncio.get_running_loop().create_future()
        try:
            self._attach()
            await self._over
        finally:
            tasks = [*self._running.values(), *self._leaving.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def adopt(self, numbers: Mapping[str, int], generation: int) -> None:
        """Serve these models from now on. Removed ones end when their requests have ended."""
        self._generation = generation
        self._attach()
        for number in self._models.keys() - set(numbers.values()) - self._leaving.keys():
            self._leaving[number] = asyncio.get_running_loop().create_task(self._let_go(number))
        self._tell()

    def _attach(self) -> None:
        for number, model in self._models.items():
            if number not in self._running:
                task = asyncio.get_running_loop().create_task(model.engine.run())
                task.add_done_callback(self._ended)
                self._running[number] = task

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._over is not None and not self._over.done():
            self._over.set_exception(error)

    async def _let_go(self, number: int) -> None:
        model, task = self._models[number], self._running[number]
        await asyncio.sleep(LEAVING_S)
        while model.engine.pending:  # noqa: ASYNC110  # the end of a job raises no event
            await asyncio.sleep(POLL_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del self._models[number], self._running[number], self._leaving[number]
        for place in [place for place in self._feeds if place[0] == number]:
            del self._feeds[place]
        self._tell()

    def _tell(self) -> None:
        adopted = Adopted(generation=self._generation, leaving=sorted(self._leaving))
        tell(self._folder, self._worker, adopted)
