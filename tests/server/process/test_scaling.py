"""More and fewer engines of a model on this machine, by how long requests wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import server.engine.scaling as engine_scaling
import server.process.scaling as process_scaling
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.errors import RequestFailure
from server.process.reload import Reload
from tests.helpers import until
from tests.server.process.test_reload_room import running, settings

RANGE = {"min": 1, "max": 3, "target_queue_s": 0.05, "shrink_after_s": 0.3}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_scaling, "GROW_AFTER_S", 0.1)
    monkeypatch.setattr(engine_scaling, "SETTLE_S", 0.1)
    monkeypatch.setattr(process_scaling, "LOOK_S", 0.02)


def job(number: int) -> Job:
    return Job(f"{number}", f"{number}", [number] * 40, GenerationParams(), (), 60)


async def test_it_grows_and_shrinks(directory: Path) -> None:
    """When requests wait another replica starts, up to the most; when they do not, one after the other ends,
    down to the least, with what it works on at its end."""
    got: dict[int, list[EngineOutput | RequestFailure]] = {number: [] for number in range(120)}
    async with running(settings(directory, replicas=RANGE, max_num_seqs=2)) as (state, _):
        engine = state.models["m"].engine
        assert len(engine.supervisors) == 1
        for number, one in got.items():
            engine.submit(job(number), one.append)
        await until(lambda: engine.num_ready == 3, within_s=30)
        await until(lambda: engine.pending == 0, within_s=60)
        await until(lambda: len(engine.supervisors) == 1, within_s=30)
        for one in got.values():
            assert sum(len(output.token_ids) for output in one if isinstance(output, EngineOutput)) == 60
    assert list(engine.supervisors) == [0]


async def test_a_number_stays(directory: Path) -> None:
    """Without a range nothing is started, however long requests wait."""
    async with running(settings(directory, replicas=1, max_num_seqs=2)) as (state, _):
        engine = state.models["m"].engine
        for number in range(20):
            engine.submit(job(number), lambda output: None)
        await asyncio.sleep(0.5)
        assert len(engine.supervisors) == 1


@pytest.mark.parametrize(("asked", "count"), [(2, 2), ({"min": 1, "max": 8}, 3), ({"min": 4, "max": 8}, 4)])
async def test_a_reload_leaves_what_requests_wait_for(directory: Path, asked: Any, count: int) -> None:
    """Of a range that is new there are as many as there were, if it has room for them."""
    slow_to_shrink = RANGE | {"min": 3, "shrink_after_s": 60}
    async with running(settings(directory, replicas=slow_to_shrink)) as (state, models):
        engine = state.models["m"].engine
        await until(lambda: engine.num_ready == 3)
        await Reload(state, models, lambda: settings(directory, replicas=asked)).run()
        assert len(engine.supervisors) == count
