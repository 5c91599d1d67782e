from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NoReturn

import pytest

from server.config.settings import Settings
from server.http.metrics import Metrics
from server.process.attached import AttachedModels


async def test_a_worker_may_be_first(directory: Path, tmp_path: Path) -> None:
    """Its sockets to an engine are there before the other process has begun to make it."""
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    model = {"id": "m", "path": directory, "engine": "vllm", "engine_args": {"load_format": "dummy"}}
    settings = Settings.model_validate({"models": [model | {"replicas": 2}], "workers": 2})
    models = AttachedModels(tmp_path, 1, Metrics())
    (served,) = models.load(settings, {"m": 0})
    for number in (0, 1):
        await served.engine.make(number).close()


async def test_a_fault_of_ours_ends_the_worker(directory: Path, tmp_path: Path) -> None:
    """A model that is not watched any more would be not ready for ever; another worker starts instead."""
    settings = Settings.model_validate({"models": [{"id": "m", "path": directory, "engine": "simulated"}]})
    models = AttachedModels(tmp_path, 1, Metrics())
    (served,) = models.load(settings, {"m": 0})

    def make(number: int) -> NoReturn:
        raise ZeroDivisionError

    served.engine.make = make
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(models.run(), 30)
