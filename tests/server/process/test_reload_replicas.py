"""A reload of a model that has several engines, or is to have them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from server.config.changes import FRONT, is_same_engine
from server.engine.admission import check_room
from server.engine.base import Phase, Report
from server.engine.simulated.engine import SimulatedEngine
from server.errors import ConfigurationError, EngineFailed
from server.process.reload import Reload
from tests.helpers import until
from tests.server.process.test_reload_room import running, settings

RANGE = {"min": 1, "max": 3, "shrink_after_s": 3600}


class Starts:
    """Of simulated engines: how many have started and not been closed, and what the next ones fail with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[SimulatedEngine] = set()
        self.failures: list[Exception] = []
        start, close = SimulatedEngine.start, SimulatedEngine.close

        async def starts(engine: SimulatedEngine, report: Report) -> None:
            if self.failures:
                raise self.failures.pop()
            self.open.add(engine)
            await start(engine, report)

        async def closes(engine: SimulatedEngine) -> None:
            self.open.discard(engine)
            await close(engine)

        monkeypatch.setattr(SimulatedEngine, "start", starts)
        monkeypatch.setattr(SimulatedEngine, "close", closes)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(monkeypatch)


async def test_an_engine_that_stays_is_not_made_twice(directory: Path, starts: Starts) -> None:
    """Where there may only be more of them, none is started beside it, to be forgotten."""
    async with running(settings(directory)) as (state, models):
        (before,) = starts.open
        await Reload(state, models, lambda: settings(directory, replicas=RANGE)).run()
        assert starts.open == {before}
        assert state.models["m"].settings.replicas.max == 3


async def test_what_has_not_changed_says_so_again(directory: Path, starts: Starts) -> None:
    """After a reload that has failed a model is as ready as before, though more replicas were to be."""
    async with running(settings(directory)) as (state, models):
        starts.failures = [EngineFailed("no memory")]
        new = settings(directory, replicas=2, min_ready=2, max_num_seqs=9)
        with pytest.raises(EngineFailed):
            await Reload(state, models, lambda: new).run()
        engine = state.models["m"].engine
        assert engine.status.ready
        check_room(engine, 1)
        assert engine.work.turns.num_places == 256


async def test_those_that_stay_have_numbers_below_the_most(directory: Path, starts: Starts) -> None:
    """By the numbers they have their GPUs; how many run does not say which."""
    async with running(settings(directory, replicas=RANGE)) as (state, models):
        engine = state.models["m"].engine
        engine.add(2)
        await until(lambda: engine.num_ready == 2)
        await Reload(state, models, lambda: settings(directory, replicas=2)).run()
        assert set(engine.supervisors) == {0, 1}
        await until(lambda: engine.num_ready == 2)
        assert len(starts.open) == 2


async def test_one_that_was_to_end_stays_where_it_is_wanted(directory: Path) -> None:
    """It takes jobs again, where a reload has made the range a number."""
    async with running(settings(directory, replicas=RANGE)) as (state, models):
        engine = state.models["m"].engine
        engine.add(1)
        await until(lambda: engine.num_ready == 2)
        engine.work.drain(1)
        models._scaling._leaving[engine] = {1}
        await Reload(state, models, lambda: settings(directory, replicas=2)).run()
        await until(lambda: len(engine.work._open()) == 2)


async def test_one_that_has_failed_for_good_is_tried_again(directory: Path, starts: Starts) -> None:
    """With what is set now, while the others are served."""
    two = settings(directory, replicas=2)
    starts.failures = [ConfigurationError("no such GPU")]
    async with running(two) as (state, models):
        engine = state.models["m"].engine
        await until(lambda: Phase.FAILED in {one.phase for one in engine.statuses.values()})
        await Reload(state, models, lambda: settings(directory, replicas=2, max_num_seqs=9)).run()
        await until(lambda: engine.num_ready == 2)
        assert len(starts.open) == 2


async def test_nothing_is_kept_of_what_was_read(directory: Path) -> None:
    """However often a server reads its configuration anew."""
    async with running(settings(directory)) as (state, models):
        for number in range(5):
            new = settings(directory, max_num_seqs=9 + number)
            await Reload(state, models, partial(lambda new: new, new)).run()
        assert len(models._numbers) == len(models._standbys) == len(models._running) == 1


def test_what_an_engine_does_not_know_makes_no_other_one(directory: Path) -> None:
    """A title that changes with the number of replicas costs no start."""
    (old,) = settings(directory).models
    (new,) = settings(directory, replicas=2, title="Other", allowed_keys=["a"]).models
    assert {"title", "allowed_keys"} <= FRONT
    assert is_same_engine(old, new, 0)
