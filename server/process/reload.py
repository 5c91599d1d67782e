"""Applies a new configuration to a running server: starts what is new, moves requests over, ends
what is gone.

Everything that can fail comes first. Until all of it has succeeded, the old configuration stays in use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import psutil

from server.config.changes import AdapterChange, Change, change_of, check_changes, is_same_engine
from server.config.model import ModelSettings
from server.config.replication import flat
from server.config.settings import Settings
from server.engine.adapters import rank_for
from server.engine.base import Engine, Phase
from server.engine.served import ServedModel, adapters_of, tune
from server.engine.vllm.size import engine_bytes
from server.errors import Failure, NotFound
from server.http.app import adopt, keyring_of
from server.http.certificates import read_context
from server.http.journaling import files_of
from server.http.state import State
from server.observe.versions import CPU_BUILD, installed
from server.process.models import RunningModels
from server.weights.adapters import Adapter

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Newcomer:
    """A model of the new configuration that is new or changed.

    former: the model with the same id before. engine: has started, to continue the former's jobs. runs: it
    has its own engine already.
    """

    model: ServedModel
    change: Change
    former: ServedModel | None = None
    engine: Engine | None = None
    runs: bool = False


class Reload:
    """load: reads the configuration. Raises ConfigurationError."""

    def __init__(self, state: State, running: RunningModels, load: Callable[[], Settings]) -> None:
        self._state = state
        self._running = running
        self._load = load
        self._lock = asyncio.Lock()

    async def run(self) -> str:
        """Reload. Returns what has changed. Raises ConfigurationError or EngineFailed if nothing has changed.
        Exception: a model whose next engine needs the memory of the current one can fail after the change."""
        async with self._lock:
            return await self._take(await asyncio.to_thread(self._load))

    async def change(self, change: AdapterChange) -> str:
        """Add, change or remove one adapter, until the configuration is read again. Raises NotFound if there
        is no such adapter to remove, else as run."""
        async with self._lock:
            models = [model.settings for model in self._state.models.values()]
            changed = [change.of(one) if one.id == change.model else one for one in models]
            if changed == models and change.adapter is None:
                raise NotFound(f"the model {change.model} has no adapter {change.id}")
            return await self._take(self._state.settings.with_models(*changed))

    async def _take(self, new: Settings) -> str:
        """Apply these settings."""
        check_changes(self._state.settings, new)
        keyring_of(new)  # check the keys before anything starts
        if new.journal is not None:
            files_of(new.journal).close()
        if new.tls is not None:  # the next connection reads its files
            read_context(new.tls)
        adapters = await self._adapters(new)
        newcomers = await self._newcomers(new)
        try:
            for newcomer in newcomers:
                await self._start(newcomer, new)
        except BaseException:
            await self._undo(newcomers)
            raise
        return await self._switch(new, {one.model.id: one for one in newcomers}, adapters)

    async def _adapters(self, new: Settings) -> dict[str, dict[str, Adapter]]:
        """The adapters of each model that stays, as read now. If a model's engine has no room for them,
        another engine takes over its jobs first."""
        found: dict[str, dict[str, Adapter]] = {}
        for settings in new.models:
            former = self._state.models.get(settings.id)
            if former is None or _change(former, settings) not in (Change.NONE, Change.FRONT):
                continue
            found[former.id] = adapters = await asyncio.to_thread(adapters_of, settings)
            if rank_for(adapters.values()) > former.lora_rank:
                await self._make_room(former, new.with_models(settings))
        return found

    async def _make_room(self, former: ServedModel, new: Settings) -> None:
        (fresh,) = await asyncio.to_thread(self._running.load, new, {former.id: former.engine})
        newcomer = Newcomer(fresh, Change.ENGINE, former)
        try:
            await self._start(newcomer, new)
        except BaseException:
            await self._undo([newcomer])
            raise
        await self._running.hand_over(former, fresh, newcomer.engine)
        self._state.models[former.id] = replace(former, lora_rank=fresh.lora_rank)

    async def _newcomers(self, new: Settings) -> list[Newcomer]:
        served = self._state.models
        changed = [
            (model, change)
            for model in new.models
            if (change := _change(served.get(model.id), model)) in (Change.ENGINE, Change.MODEL)
        ]
        if not changed:
            return []
        some = new.model_copy(update={"models": tuple(model for model, _ in changed)})
        former = {model.id: served[model.id].engine for model, change in changed if change is Change.ENGINE}
        loaded = await asyncio.to_thread(self._running.load, some, former)
        return [
            Newcomer(model, change, served.get(model.id))
            for model, (_, change) in zip(loaded, changed, strict=True)
        ]

    async def _start(self, newcomer: Newcomer, new: Settings) -> None:
        """Start the engine of a new model beside the running ones, if there is room and it is not
        loaded on demand."""
        model = newcomer.model
        if newcomer.change is Change.ENGINE and self._stays(newcomer):
            return
        if _shares(model, new):
            return  # it is loaded when the new groups are in use
        if newcomer.former is not None and not self._has_room(newcomer):
            log.info(
                "model %s: its next engine needs the memory of the current one, and starts when that has"
                " ended",
                model.id,
            )
            return
        if newcomer.former is not None and newcomer.former.engine.residence.is_out:
            return
        if newcomer.change is Change.ENGINE:
            newcomer.engine = model.engine.make(0)
            await newcomer.engine.start(lambda status: None)
        else:
            newcomer.runs = True
            self._running.begin(model)
            await self._running.ready(model)

    def _has_room(self, newcomer: Newcomer) -> bool:
        if newcomer.change is Change.ENGINE and self._state.settings.workers > 1:
            return False  # the workers' sockets serve one engine at a time
        if newcomer.change is Change.ENGINE and max(self._counts(newcomer)) > 1:
            return False  # replicas are replaced one after another, while the others run
        served = self._state.models.values()
        others = [model.settings for model in served if model.engine.status.phase is not Phase.FAILED]
        return has_room(newcomer.model.settings, others)

    @staticmethod
    def _stays(newcomer: Newcomer) -> bool:
        """Whether all its engines stay, and only their number changes."""
        former, model = newcomer.former, newcomer.model
        return (
            former is not None
            and model.lora_rank <= former.lora_rank
            and all(
                is_same_engine(former.settings, model.settings, number)
                for number in former.engine.supervisors
            )
        )

    @staticmethod
    def _counts(newcomer: Newcomer) -> tuple[int, int]:
        """(replicas before, replicas after)."""
        before = newcomer.former.engine.supervisors if newcomer.former is not None else {}
        return len(before), len(newcomer.model.engine.supervisors)

    async def _undo(self, newcomers: Iterable[Newcomer]) -> None:
        for newcomer in newcomers:
            if newcomer.engine is not None:
                await newcomer.engine.close()
            if newcomer.runs:
                await self._running.end(newcomer.model)
            else:
                self._running.forget(newcomer.model)

    async def _switch(
        self, new: Settings, newcomers: dict[str, Newcomer], adapters: dict[str, dict[str, Adapter]]
    ) -> str:
        state, running = self._state, self._running
        former = dict(state.models)
        models = [
            _next(former.get(one.id), newcomers.get(one.id), one, adapters.get(one.id, {}))
            for one in new.models
        ]
        adopt(state, new, models)
        await running.adopt(new)
        for newcomer in newcomers.values():
            if newcomer.change is Change.MODEL and _shares(newcomer.model, new):
                newcomer.runs = True  # its requests wait in line, also until the former one has ended
                running.begin(newcomer.model)
        leaving = [
            model
            for model in former.values()
            if all(model.engine is not other.engine for other in state.models.values())
        ]
        going = [self._go(newcomer, new.drain_timeout_s) for newcomer in newcomers.values()]
        apart = [model for model in leaving if model.id not in newcomers]
        going += [self._retire(model, new.drain_timeout_s) for model in apart]
        for result in await asyncio.gather(*going, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return _summary(former, state.models, newcomers, apart)

    async def _go(self, newcomer: Newcomer, within_s: float) -> None:
        """Replace the former model by the new one."""
        model, former = newcomer.model, newcomer.former
        if newcomer.change is Change.ENGINE and former is not None:
            await self._running.groups.room(former, within_s)
            try:
                await self._running.hand_over(former, model, newcomer.engine)
            except Failure:
                self._state.models[model.id] = former
                tune(former.engine, self._state.settings, former.settings)
                raise
            return
        if former is not None:
            await self._retire(former, within_s)
        if not newcomer.runs:
            self._running.begin(model)
        await self._running.ready(model)

    async def _retire(self, model: ServedModel, within_s: float) -> None:
        if cut_off := await self._running.retire(model, within_s):
            log.warning(
                "model %s: %d candidates did not end within %g s (drain_timeout_s), and are cut off",
                model.id,
                cut_off,
                within_s,
            )


def has_room(model: ModelSettings, others: Iterable[ModelSettings]) -> bool:
    """Whether its engine can start while the engines of the others run."""
    if model.engine == "simulated":
        return True
    if installed(CPU_BUILD):
        return bool(psutil.virtual_memory().available >= engine_bytes(model))
    beside = [other for other in others if _share_a_device(model, other)]
    return sum(one.gpu_memory_utilization for one in (model, *beside)) <= 1


def _shares(model: ServedModel, settings: Settings) -> bool:
    """Whether it shares the memory of a group."""
    return any(model.id in group.models for group in settings.groups.values())


def _share_a_device(one: ModelSettings, other: ModelSettings) -> bool:
    if other.engine == "simulated":
        return False
    return not (one.devices and other.devices) or bool({*flat(one.devices)} & {*flat(other.devices)})


def _change(former: ServedModel | None, settings: ModelSettings) -> Change:
    """What the change of a model needs. A model that has failed for good is always tried again."""
    if former is None or former.engine.status.phase is Phase.FAILED:
        return Change.MODEL
    return change_of(former.settings, settings)


def _next(
    former: ServedModel | None,
    newcomer: Newcomer | None,
    settings: ModelSettings,
    adapters: dict[str, Adapter],
) -> ServedModel:
    if newcomer is None:
        assert former is not None, "unchanged"
        return former.with_settings(settings, adapters)
    if newcomer.change is Change.ENGINE and former is not None:
        return newcomer.model.on(former)
    return newcomer.model


def _summary(
    former: dict[str, ServedModel],
    models: dict[str, ServedModel],
    newcomers: dict[str, Newcomer],
    apart: list[ServedModel],
) -> str:
    before, after = _adapters_by_id(former), _adapters_by_id(models)
    words = {
        "added": [name for name in newcomers if name not in former],
        "changed": [name for name in newcomers if name in former],
        "ended": [model.id for model in apart],
        "adapters added": [name for name in after if name not in before],
        "adapters changed": [name for name in after if before.get(name, after[name]) != after[name]],
        "adapters ended": [name for name in before if name not in after],
    }
    told = [f"{word}: {', '.join(names)}" for word, names in words.items() if names]
    return "; ".join(["the new configuration is in use", *told]) + "."


def _adapters_by_id(models: dict[str, ServedModel]) -> dict[str, Adapter | None]:
    return {name: one.adapter for model in models.values() for name, one in model.adapters.items()}
