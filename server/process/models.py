"""The models that this process runs: their engines and standby processes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType

from server.config.changes import is_same_engine
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.base import Engine, Phase, Status
from server.engine.handover import hand_over
from server.engine.replicas import Replicas
from server.engine.served import ServedModel, load_models
from server.engine.supervisor import ALIKE
from server.engine.vllm.devices import check_devices, check_engine_args, check_sleep_level, dealt
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.standby import Standby
from server.errors import ConfigurationError, EngineFailed
from server.http.metrics import Metrics
from server.observe.attestation import Attestation
from server.process.groups import Groups
from server.process.scaling import Scaling
from server.process.workers import LEAVING_S, Workers
from server.weights.checkpoint import verify_checksums

log = logging.getLogger(__name__)

POLL_S = 0.02
NOBODY: Mapping[str, Replicas] = MappingProxyType({})


class RunningModels:
    """served: id -> model that requests can name; shared with the front end."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        workers: Workers | None = None,
        attestation: Attestation | None = None,
    ) -> None:
        self.settings = settings
        self.served: dict[str, ServedModel] = {}
        self._metrics = metrics
        self._workers = workers
        self._attestation = attestation
        self._running: dict[Replicas, asyncio.Task[None]] = {}
        self._standbys: dict[Replicas, list[Standby]] = {}  # one for each replica
        self._reserves: dict[
            Replicas, list[asyncio.Task[None]]
        ] = {}  # tasks that keep standby processes ready
        self._numbers: dict[Replicas, int] = {}  # numbers of the models, for the workers
        self._free = itertools.count()
        self._over: asyncio.Future[None] | None = None
        self.groups = Groups(metrics, verify if attestation is None else _verified)
        self._scaling = Scaling(lambda: self.served.values(), self._tell_removed, settings.workers)

    def load(self, settings: Settings, former: Mapping[str, Replicas] = NOBODY) -> list[ServedModel]:
        """The models of these settings, not yet started. former: engines whose jobs a new model continues.
        Raises ConfigurationError as load_models."""
        numbers = [
            self._numbers[former[one.id]] if one.id in former else next(self._free) for one in settings.models
        ]
        for one in settings.models:
            check_devices(one)
            check_sleep_level(one)
            check_engine_args(one)
        standbys = [
            [Standby(dealt(model, k)) for k in range(model.replicas.max)] if model.standby else []
            for model in settings.models
        ]

        def make_vllm(number: int, model: ModelSettings, context_size: int, replica: int) -> Engine:
            return VLLMEngine(
                dealt(model, replica),
                context_size,
                self._metrics.engines.of(model.id, replica),
                self._workers.links(numbers[number], replica) if self._workers is not None else (),
                hang_timeout_s=self.settings.hang_timeout_s,
                warms_up=not self._is_restart(model.id, replica),
                standby=standbys[number][replica] if standbys[number] else None,
            )

        models = load_models(settings, make_vllm)
        for model, number, reserve in zip(models, numbers, standbys, strict=True):
            self._numbers[model.engine] = number
            if self._workers is not None:
                model.engine.on_status = partial(self._workers.tell_status, number)
                model.engine.work.suspects.trials = self._workers.trials(number)
            model.engine.losses = partial(self._metrics.losses.of, model.id)
            self._standbys[model.engine] = reserve
        return models

    async def adopt(self, settings: Settings) -> None:
        """Use these settings, in the workers as well."""
        self.settings = settings
        self.groups.adopt(settings, self.served.values())
        if self._workers is not None:
            numbers = {model.id: self._numbers[model.engine] for model in self.served.values()}
            await self._workers.adopt(settings, numbers)

    async def run(self) -> None:
        """Run the served models until cancelled. Raises the failure of the last one if all have failed."""
        self._over = asyncio.get_running_loop().create_future()
        self.groups.adopt(self.settings)
        beside = [asyncio.create_task(one.run()) for one in (self._scaling, self.groups)]
        try:
            for model in self.served.values():
                self.begin(model)
            await asyncio.wait((self._over, *beside), return_when=asyncio.FIRST_COMPLETED)
            for one in (self._over, *beside):
                if one.done():
                    one.result()
        finally:
            tasks = [*beside, *self._running.values(), *itertools.chain(*self._reserves.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, model: ServedModel) -> None:
        self.groups.add(model)
        task = asyncio.create_task(run_model(model, self.served.values(), self._attestation))
        self._running[model.engine] = task
        task.add_done_callback(partial(self._ended, model.engine))
        self._keep_reserve(model.engine)

    async def ready(self, model: ServedModel) -> None:
        """Return when the model is ready, or unloaded on purpose. Raises ConfigurationError or EngineFailed
        if it never will be, or its engine failed repeatedly."""
        while not model.engine.is_available:
            if model.engine.restarts >= ALIKE:
                raise EngineFailed(f"model {model.id}: {model.engine.status.detail}")
            if model.engine.status.phase is Phase.FAILED:
                raise ConfigurationError(model.engine.status.detail)
            task = self._running[model.engine]
            if task.done():
                task.result()
                raise EngineFailed(f"model {model.id} has ended")
            await asyncio.sleep(POLL_S)

    async def end(self, model: ServedModel) -> None:
        """End the model at once, with its jobs."""
        async with self.groups.removing(model):
            task = self._running.pop(model.engine)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        del self._numbers[model.engine]
        await self._end_reserve(model.engine)

    def forget(self, model: ServedModel) -> list[Standby]:
        """Drop a loaded model that will not run. Returns its standby processes."""
        del self._numbers[model.engine]
        return self._standbys.pop(model.engine)

    async def hand_over(self, model: ServedModel, fresh: ServedModel, engine: Engine | None) -> None:
        """Let engines of the fresh model continue the jobs, as many engines as the old model has. engine: one
        of them that has started. Raises as Replicas.hand_over."""
        async with model.engine.changing:
            await self._hand_over(model, fresh, engine)

    async def _hand_over(self, model: ServedModel, fresh: ServedModel, engine: Engine | None) -> None:
        old, new = model.engine, fresh.engine
        asked = fresh.settings.replicas
        count = min(max(len(old.supervisors), asked.min), asked.max)  # requests may wait for all of them
        stay = sorted(number for number in old.supervisors if number < asked.max)[:count]
        grows = fresh.lora_rank > model.lora_rank
        changed = [k for k in stay if grows or not is_same_engine(model.settings, fresh.settings, k)]
        standbys = self.forget(fresh)
        await hand_over(old, new.make, engine, changed)
        old.min_ready = new.min_ready
        leaving = sorted(old.supervisors.keys() - stay)
        free = (number for number in itertools.count() if number not in stay)
        for _ in range(count - len(stay)):
            old.add(next(free))
        for number in leaving:
            await old.remove(number)
            self._tell_removed(old, number)
        await self._end_reserve(old)
        self._standbys[old] = standbys
        self._keep_reserve(old)

    def _tell_removed(self, engine: Replicas, number: int) -> None:
        if self._workers is not None:
            self._workers.tell_removed(self._numbers[engine], number)

    async def retire(self, model: ServedModel, within_s: float) -> int:
        """End a removed model when its requests have ended, or the time is up. Returns the number of
        candidates cut off."""
        await asyncio.sleep(LEAVING_S)
        end = time.monotonic() + within_s
        while (left := self._left(model)) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        await self.end(model)
        return left

    def _left(self, model: ServedModel) -> int:
        """Candidates that have not ended; those of the workers count as one."""
        others = self._workers is not None and self._workers.have(self._numbers[model.engine])
        return model.engine.pending + others

    def _ended(self, engine: Replicas, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        is_served = any(model.engine is engine for model in self.served.values())
        if error is not None and is_served and self._over is not None and not self._over.done():
            self._over.set_exception(error)

    def _keep_reserve(self, engine: Replicas) -> None:
        self._reserves[engine] = [asyncio.create_task(one.run()) for one in self._standbys[engine]]

    async def _end_reserve(self, engine: Replicas) -> None:
        self._standbys.pop(engine, None)
        for keeping in (tasks := self._reserves.pop(engine, [])):
            keeping.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_restart(self, model_id: str, replica: int) -> bool:
        model = self.served.get(model_id)
        one = model.engine.supervisors.get(replica) if model is not None else None
        return one is not None and one.is_restart


async def verify(model: ServedModel) -> None:
    """Verify the model's checksums. Raises ConfigurationError."""
    await asyncio.to_thread(verify_checksums, model.settings.directory, model.settings.sha256)


async def run_model(
    model: ServedModel, models: Collection[ServedModel], attestation: Attestation | None
) -> None:
    """Verify the model's weights and keep its engines running. models: all served models. Raises if it is the
    last of them to fail for good."""
    if attestation:
        model.engine.report(Status(Phase.VERIFYING))
        await asyncio.to_thread(attestation.verify_model, model.settings)
    elif not model.engine.residence.is_out:  # otherwise it is verified when it is loaded
        model.engine.report(Status(Phase.VERIFYING))
        await verify(model)
    try:
        await model.engine.run()
    except ConfigurationError as error:
        model.engine.report(Status(Phase.FAILED, detail=error.message))
        if all(other.engine.status.phase is Phase.FAILED for other in models):
            raise
        log.error("%s; the other models are served", error.message)
    await asyncio.Event().wait()


async def _verified(model: ServedModel) -> None:
    """Verify the model at the start, together with all others."""
