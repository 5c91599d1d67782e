"""What becomes of the server when an engine does not start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.config.settings import Settings
from server.engine.base import Phase, Report
from server.engine.served import ServedModel, load_models
from server.errors import ConfigurationError, EngineFailed
from server.process.models import run_model
from tests.helpers import Engine, served, until


class Sick(Engine):
    """Does not start, for this reason."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def start(self, report: Report) -> None:
        raise self.failure


async def run(models: list[ServedModel]) -> None:
    """Until one of them ends the server."""
    tasks = [asyncio.create_task(run_model(model, models, None)) for model in models]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_alone_it_is_the_end(directory: Path) -> None:
    """What no other try would mend ends the server of one model."""
    with pytest.raises(ConfigurationError, match="no such argument"):
        await run([served(directory, Sick(ConfigurationError("no such argument")))])


async def test_one_of_several_is_marked(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others are served; when all have failed, that is the end."""
    first = served(directory, Sick(ConfigurationError("no such argument")), id="first")
    second = served(directory, engine := Engine(), id="second")
    second.engine.patience.backoff_s = (0.0,)
    running = asyncio.create_task(run([first, second]))
    await until(lambda: second.engine.status.ready and first.engine.status.phase is Phase.FAILED)
    assert first.engine.status.detail == "no such argument"
    assert "no such argument; the other models are served" in caplog.text
    engine.start = Sick(ConfigurationError("no such device")).start  # type: ignore[method-assign]
    engine.death.set()
    with pytest.raises(ConfigurationError, match="no such device"):
        await asyncio.wait_for(running, 30)


@pytest.mark.parametrize(
    ("count", "keep_trying", "ends"), [(1, False, True), (1, True, False), (2, False, False)]
)
async def test_the_same_failure_three_times(
    directory: Path, count: int, keep_trying: bool, ends: bool
) -> None:
    """Ends the server of one model, unless it is told to go on."""
    configs = [{"id": f"m{k}", "path": directory, "engine": "simulated"} for k in range(count)]
    settings = Settings.model_validate({"models": configs, "keep_trying": keep_trying})
    models = load_models(settings, lambda number, model, context_size: Engine())
    for model in models:
        model.engine.patience.backoff_s = (0.0,)
        model.engine.make = lambda number: Sick(EngineFailed("the disk is full"))
    running = asyncio.create_task(run(models))
    await until(lambda: running.done() or all(model.engine.restarts > 3 for model in models))
    assert running.done() == ends
    running.cancel()
    if ends:
        with pytest.raises(
            EngineFailed, match=r"model m0: .* the disk is full \(3 times with the same error\)"
        ):
            await running
    else:
        await asyncio.gather(running, return_exceptions=True)
