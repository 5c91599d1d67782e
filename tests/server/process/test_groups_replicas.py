"""Models of several engines that are loaded when they are asked for, in this process, on simulated ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import server.process.models as models_module
from server.engine.prefixes import chain
from tests.helpers import until
from tests.server.process.sites import LATE, Engines, Site

TWO = LATE | {"replicas": 2, "max_num_seqs": 2, "min_ready": 2}


@pytest.fixture
def site(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(models_module, "LEAVING_S", 0.01)
    return Site(directory, Engines(monkeypatch))


async def test_all_are_loaded_and_all_make_room(site: Site) -> None:
    """The streams of each of them end before that, and none is lost."""
    async with site.open({"a": TWO, "b": LATE}, "ab"):
        expected = await site.text("b")
        streams = [asyncio.create_task(site.text("a")) for _ in range(4)]
        await until(lambda: site.running("a") == 4)
        work = site.state.models["a"].engine.work
        assert [work.num_placed(0), work.num_placed(1)] == [2, 2]
        assert await site.text("b") == expected
        assert [stream.done() for stream in streams] == [True] * 4
        assert {await stream for stream in streams} == {expected}
        assert site.states() == {"a": "unloaded", "b": "loaded"}
        assert [one.status.phase for one in site.state.models["a"].engine.supervisors.values()] == [
            "unloaded"
        ] * 2


async def test_caches_are_forgotten(site: Site) -> None:
    """After an unload the router takes no replica for one that holds the beginning of a prompt."""
    async with site.open({"a": TWO, "b": LATE}, "ab"):
        prompt = [7] * 32
        await site.text("a", prompt=prompt, max_tokens=2)
        prefixes = site.state.models["a"].engine.work.router.prefixes
        assert sum(prefixes.held(chain(prompt), (0, 1)).values()) == 2
        await site.text("b")
        assert prefixes.held(chain(prompt), (0, 1)) == {0: 0, 1: 0}


async def test_one_replica_is_enough(site: Site) -> None:
    """Where the other one does not start; and it is tried again by the next load."""
    site.engines.failing.add("a 1")
    async with site.open({"a": TWO | {"min_ready": 1}, "b": LATE}, "ab"):
        first = await site.text("a")
        await until(lambda: site.engines.starts.count("a") == 4)
        await site.text("b")
        site.engines.failing.clear()
        assert await site.text("a") == first
        await until(lambda: site.engines.alive == ["a", "a"])


async def test_too_few_replicas(site: Site) -> None:
    """Where fewer start than min_ready, who has waited is served by those, who comes is told why not, and
    the others of its group wait no longer than otherwise."""
    site.engines.failing.add("a 1")
    async with site.open({"a": TWO, "b": LATE}, "ab"):
        first = await site.text("a")
        refusal = await site.text("a")
        assert "model a is not ready: failed (model a, replica 1: the engine did not start: out" in refusal
        assert await site.text("b") == first
        assert site.states() == {"a": "unloaded", "b": "loaded"}


async def test_one_that_dies_leaves_its_streams_to_the_other(site: Site) -> None:
    """At once, and the model stays in memory."""
    async with site.open({"a": TWO}, "a"):
        expected = await site.text("a")
        streams = [asyncio.create_task(site.text("a")) for _ in range(2)]
        await until(lambda: site.running("a") == 2)
        first = site.state.models["a"].engine.supervisors[0]._engine
        first.death.set()  # type: ignore[union-attr]
        assert {await stream for stream in streams} == {expected}
        await until(lambda: site.engines.alive == ["a", "a"])
        assert site.states() == {"a": "loaded"}
