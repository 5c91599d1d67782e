"""A reload where two engines of a model do not fit beside each other, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import server.process.reload as reload_module
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.base import EngineOutput, Phase
from server.engine.simulated.engine import SimulatedEngine
from server.errors import ConfigurationError, EngineFailed, RequestFailure
from server.http.app import build_app
from server.http.metrics import Metrics
from server.http.state import State
from server.process.models import RunningModels
from server.process.reload import Reload, has_room
from tests.helpers import until
from tests.server.engine.test_supervisor import JOB


def settings(path: Path, **keys: Any) -> Settings:
    return Settings.model_validate({"models": [{"id": "m", "path": path, "engine": "simulated", **keys}]})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[State, RunningModels]]:
    metrics = Metrics()
    models = RunningModels(settings, metrics)
    state: State = build_app(settings, models.load(settings), metrics).state.server
    models.served = state.models
    task = asyncio.create_task(models.run())
    await until(lambda: state.ready)
    try:
        yield state, models
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "has_room", lambda model, others: False)


async def test_the_next_engine_starts_after_this_one(directory: Path) -> None:
    """And goes on with its jobs."""
    got: list[EngineOutput | RequestFailure] = []
    async with running(settings(directory)) as (state, models):
        supervisor = state.models["m"].engine
        supervisor.submit(JOB, got.append)
        await until(lambda: len(got) > 2)
        before = supervisor.supervisors[0]._engine
        new = settings(directory, max_num_seqs=9)
        await Reload(state, models, lambda: new).run()
        assert state.models["m"].settings.max_num_seqs == 9
        assert state.models["m"].engine is supervisor
        assert supervisor.supervisors[0]._engine is not before
        at_change = len(got)
        await until(lambda: len(got) > at_change + 2)
        assert all(isinstance(output, EngineOutput) for output in got)


async def test_this_one_starts_again_where_the_next_does_not(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked hears of it, and the model is as it was."""
    async with running(settings(directory)) as (state, models):
        supervisor = state.models["m"].engine.supervisors[0]
        make = supervisor.make
        starts: list[bool] = []

        async def start(engine: SimulatedEngine, report: Any) -> None:
            starts.append(supervisor.make is make)
            if not starts[-1]:
                raise EngineFailed("no memory")

        monkeypatch.setattr(SimulatedEngine, "start", start)
        with pytest.raises(EngineFailed, match="no memory"):
            await Reload(state, models, lambda: settings(directory, max_num_seqs=9)).run()
        await until(lambda: starts == [False, True])
        assert state.models["m"].settings.max_num_seqs == 256


async def test_another_model_starts_when_this_one_has_ended(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it is not ready, and it fails for good where it does not start."""

    async def start(engine: SimulatedEngine, report: Any) -> None:
        raise ConfigurationError("no such device")

    async with running(settings(directory)) as (state, models):
        former = state.models["m"].engine
        monkeypatch.setattr(SimulatedEngine, "start", start)
        reloading = asyncio.create_task(
            Reload(state, models, lambda: settings(directory, max_model_len=32)).run()
        )
        await until(lambda: state.models["m"].engine is not former)
        assert former.status.ready
        assert not state.ready
        with pytest.raises(ConfigurationError, match="no such device"):
            await reloading
        assert former.status.phase is Phase.STOPPED


async def test_a_model_that_has_failed_is_tried_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing has changed that the server knows of: its weights may have."""

    async def start(engine: SimulatedEngine, report: Any) -> None:
        raise ConfigurationError("no such device")

    two = Settings.model_validate(
        {"models": [{"id": name, "path": directory, "engine": "simulated"} for name in ("m", "n")]}
    )
    async with running(two) as (state, models):
        with monkeypatch.context() as patch:
            patch.setattr(SimulatedEngine, "start", start)
            assert state.models["m"].engine.supervisors[0]._engine is not None
            state.models["m"].engine.supervisors[0]._engine.death.set()  # type: ignore[attr-defined]
            await until(lambda: state.models["m"].engine.status.phase is Phase.FAILED)
        await Reload(state, models, lambda: two).run()
        assert state.models["m"].engine.status.ready


def gpu_model(**keys: Any) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "path": Path("m"), "gpu_memory_utilization": 0.5, **keys})


@pytest.mark.parametrize(
    ("model", "other", "fits"),
    [
        ({}, {}, True),
        ({"gpu_memory_utilization": 0.6}, {}, False),
        ({"gpu_memory_utilization": 0.6}, {"engine": "simulated"}, True),
        ({"gpu_memory_utilization": 0.6, "devices": [0]}, {"devices": [1]}, True),
        ({"gpu_memory_utilization": 0.6, "devices": [0]}, {"devices": [0]}, False),
        ({"gpu_memory_utilization": 0.6, "devices": [0]}, {}, False),
    ],
)
def test_room_on_gpus(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], other: dict[str, Any], fits: bool
) -> None:
    """The shares of engines that have a GPU in common add up to all of it at most."""
    monkeypatch.setattr(reload_module, "installed", lambda name: None)
    assert has_room(gpu_model(**model), [gpu_model(**other)]) is fits


@pytest.mark.parametrize(("gib", "fits"), [(1.0, True), (1e6, False)])
def test_room_on_a_cpu(directory: Path, monkeypatch: pytest.MonkeyPatch, gib: float, fits: bool) -> None:
    """Weights, KV cache and a process are in the memory that is free."""
    monkeypatch.setattr(reload_module, "installed", lambda name: "0.32.0")
    model = ModelSettings(id="m", path=directory, kv_cache_gib=gib, engine_args={"load_format": "dummy"})
    assert has_room(model, []) is fits
