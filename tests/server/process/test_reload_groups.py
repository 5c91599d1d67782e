"""Groups of models that a reload changes while streams run, in this process, on simulated engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import server.process.models as models_module
from server.errors import EngineFailed
from tests.helpers import until
from tests.server.process.sites import LATE, Engines, Site


@pytest.fixture
def site(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(models_module, "LEAVING_S", 0.01)
    return Site(directory, Engines(monkeypatch))


async def test_one_more_in_a_group(site: Site) -> None:
    """Its turn comes when the stream of the other one has ended, which loses nothing."""
    async with site.open({"a": LATE}, "a"):
        expected = await site.text("a")
        stream = await site.begin("a")
        assert await site.reload({"a": LATE, "b": LATE}, "ab") == "the new configuration is in use; added: b."
        assert await site.text("b") == expected
        assert stream.done()
        assert await stream == expected
        assert site.engines.most == 1


async def test_one_that_is_served_no_more_has_its_memory_to_the_end(site: Site) -> None:
    """Of its last stream: the others of its group wait for that."""
    async with site.open({"a": LATE, "b": LATE}, "ab"):
        expected = await site.text("a")
        stream = await site.begin("a")
        reloading = asyncio.create_task(site.reload({"b": LATE}, "b"))
        await until(lambda: "a" not in site.state.models)
        assert await site.text("b") == expected
        assert await stream == expected
        await reloading
        assert site.engines.most == 1


async def test_one_that_is_served_no_more_has_its_turn(site: Site) -> None:
    """Where requests wait for it that came before the reload."""
    async with site.open({"a": LATE, "b": LATE}, "ab"):
        first = await site.begin("a")
        second = await site.wait("b")
        await site.reload({"a": LATE}, "a")
        assert await second == await first
        assert site.engines.most == 1
        assert site.states() == {"a": "unloaded"}


async def test_a_group_that_is_no_more(site: Site) -> None:
    """Each of its models has memory of its own then."""
    async with site.open({"a": LATE, "b": LATE}, "ab"):
        stream = await site.begin("a")
        waiting = await site.wait("b")
        await site.reload({"a": LATE, "b": LATE})
        await until(lambda: site.states() == {"a": "loaded", "b": "loaded"})
        assert await waiting == await stream


async def test_one_that_is_to_be_loaded_at_the_start(site: Site) -> None:
    """Is loaded by the reload, though nobody asks for it, and makes no room any more."""
    async with site.open({"a": LATE, "b": LATE}, "ab", 8):
        assert site.states() == {"a": "unloaded", "b": "unloaded"}
        stays = LATE | {"load": "at_start"}
        await site.reload({"a": stays, "b": LATE, "c": LATE}, "abc", 8)
        await until(lambda: site.states()["a"] == "loaded")
        assert [len(await site.text(name)) > 0 for name in "bcb"] == [True] * 3
        assert site.engines.starts == ["a", "b", "c", "b"]
        assert site.engines.most == 2


async def test_one_that_is_loaded_at_the_start_no_more(site: Site) -> None:
    """Makes room when its stream has ended, and comes back when it is asked for."""
    stays = LATE | {"load": "at_start"}
    async with site.open({"a": stays, "b": LATE}, "ab", 8):
        stream = await site.begin("a")
        await site.reload({"a": LATE, "b": LATE}, "ab")
        assert await site.text("b") == await stream
        assert site.states() == {"a": "unloaded", "b": "loaded"}
        assert await site.text("a") == await stream
        assert site.engines.most == 1


async def test_another_model_of_that_name(site: Site) -> None:
    """Requests wait for it while the streams of the one before end, in the memory that both have."""
    async with site.open({"a": LATE}, "a"):
        expected = await site.text("a")
        stream = await site.begin("a")
        reloading = asyncio.create_task(site.reload({"a": LATE | {"max_model_len": 60}}, "a"))
        await until(lambda: site.state.models["a"].context_size == 60)
        assert await site.text("a") == expected
        assert await stream == expected
        await reloading
        assert site.engines.starts == ["a", "a"]
        assert site.engines.most == 1


async def test_another_model_that_is_loaded_at_the_start(site: Site) -> None:
    """Has the memory of the one before, and no more."""
    stays = LATE | {"load": "at_start"}
    async with site.open({"a": stays, "b": LATE}, "ab", 8):
        stream = await site.begin("a")
        await site.text("b")
        await site.reload({"a": stays | {"max_model_len": 60}, "b": LATE}, "ab", 8)
        assert stream.done()
        await until(lambda: site.states() == {"a": "loaded", "b": "loaded"})
        assert site.engines.starts == ["a", "b", "a"]
        assert site.engines.most == 2


async def test_other_engines_of_one_that_is_not_loaded(site: Site) -> None:
    """Are those of its next load."""
    async with site.open({"a": LATE}, "a"):
        await site.reload({"a": LATE | {"replicas": 2, "max_num_seqs": 9}}, "a")
        assert site.engines.starts == []
        assert site.states() == {"a": "unloaded"}
        await site.text("a")
        await until(lambda: site.engines.alive == ["a", "a"])


async def test_how_long_one_stays(site: Site) -> None:
    """min_loaded_s of its group and its own unload_after_s are those of the reload from then on."""
    async with site.open({"a": LATE, "b": LATE}, "ab", min_loaded_s=3600.0):
        await site.text("a")
        waiting = await site.wait("b")
        await asyncio.sleep(0.3)
        assert site.states() == {"a": "loaded", "b": "unloaded"}
        await site.reload({"a": LATE, "b": LATE | {"unload_after_s": 0.05}}, "ab")
        assert await waiting
        await until(lambda: site.states() == {"a": "unloaded", "b": "unloaded"})


async def test_less_memory(site: Site) -> None:
    """Takes the least recently used away at once, where it has nothing to do."""
    three = dict.fromkeys("abc", LATE)
    async with site.open(three, "abc", 12):
        for name in "bca":
            await site.text(name)
        await site.reload(three, "abc", 8)
        await until(lambda: site.states() == {"a": "loaded", "b": "unloaded", "c": "loaded"})


async def test_one_that_does_not_start_keeps_nobody_out(site: Site) -> None:
    """A model that is loaded at the start is tried again and again, and the others are loaded beside it."""
    site.engines.failing.add("a")
    stays = LATE | {"load": "at_start"}
    async with site.open({"b": LATE, "c": LATE}, "bc", 8):
        with pytest.raises(EngineFailed, match="model a: the engine did not start: out of memory"):
            await site.reload({"a": stays, "b": LATE, "c": LATE}, "abc", 8)
        assert await site.text("b") == await site.text("c")
        assert site.states() == {"a": "loading", "b": "unloaded", "c": "loaded"}


async def test_one_that_takes_more(site: Site) -> None:
    """Its next engine starts when another one has made the room for it, and its stream goes on there."""
    async with site.open({"a": LATE, "b": LATE}, "ab", 8):
        expected = await site.text("b")
        stream = await site.begin("a")
        site.engines.close_s["b"] = 0.5
        more = LATE | {"size_gib": 8, "max_num_seqs": 9}
        await site.reload({"a": more, "b": LATE}, "ab", 8)
        assert site.engines.starts == ["b", "a", "a"]
        assert site.states() == {"a": "loaded", "b": "unloaded"}
        assert site.engines.alive_at_start[-1] == ["a"]
        assert await stream == expected
