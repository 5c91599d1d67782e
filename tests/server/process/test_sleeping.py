"""Models that sleep to make room, and are woken when they are asked for, as their clients see them. On
simulated engines, each of which says so where it is given a job while it sleeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access.keys import digest
from server.config.settings import Settings
from server.engine.handover import hand_over
from server.errors import EngineFailed
from tests.helpers import byte_level, events, folded, model_directory, until
from tests.server.process.test_groups import House, put, text

SLEEPS = {"load": "on_demand", "size_gib": 4, "sleep_level": 1, "asleep_gib": 1}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"), byte_level())


@pytest.fixture
def admin(tmp_path: Path) -> Path:
    """A file of keys, where "key" may do everything."""
    file = tmp_path / "keys"
    file.write_text(f"boss {digest('key')} roles=infer,admin\n")
    return file


def sharing(path: Path, memory_gib: float, **settings: Any) -> House:
    """Three models of 4 GiB, of which each keeps one while it sleeps."""
    group = {"models": ["a", "b", "c"], "memory_gib": memory_gib, "min_loaded_s": 0.0}
    return House(path, {"groups": {"g": group}, **settings}, a=SLEEPS, b=SLEEPS, c=SLEEPS)


async def metric(client: httpx.AsyncClient, line: str) -> float:
    """The value of a line of /metrics; 0: there is none."""
    found = (await client.get("/metrics")).text.splitlines()
    return next((float(one.split()[-1]) for one in found if one.startswith(line)), 0.0)


async def test_one_that_makes_room_is_woken_with_the_same_texts(path: Path) -> None:
    """And is not started again: its process stays."""
    house = sharing(path, 6)
    async with house.open() as client:
        first = await text(client, "a")
        await text(client, "b")
        assert house.states() == {"a": "asleep", "b": "loaded", "c": "unloaded"}
        assert (await client.get("/ready")).json()["models"]["a"]["state"] == "asleep"
        assert await text(client, "a") == first
        assert (house.starts, house.wakes, house.most) == (["a", "b"], ["a"], 1)
        assert await metric(client, 'verbatim_model_load_seconds_count{model="a",source="memory"}') == 1
        assert await metric(client, 'verbatim_model_load_seconds_count{model="a",source="disk"}') == 1


async def test_those_asleep_end_where_they_are_in_the_way(path: Path) -> None:
    """What a sleeping model keeps counts, and the one that was used longest ago gives it up."""
    house = sharing(path, 5)
    async with house.open() as client:
        for name in ("a", "b", "c"):
            await text(client, name)
        assert house.states() == {"a": "unloaded", "b": "asleep", "c": "loaded"}
        assert house.asleep == ["b"]
        await text(client, "a")
        assert house.starts == ["a", "b", "c", "a"]


async def test_after_a_while_without_requests(path: Path) -> None:
    """It sleeps, and a stream that comes then is told that it is woken, and has its text."""
    house = House(path, {}, a={**SLEEPS, "unload_after_s": 0.1})
    async with house.open() as client:
        first = await text(client, "a")
        await until(lambda: house.states()["a"] == "asleep")
        house.start_s = 0.3
        stream = house.stream("a")
        running = asyncio.create_task(stream.run())
        await until(lambda: house.models["a"].engine.status.words == "waking")
        await running
    (choice,) = folded(events(stream.body))
    assert choice["text"] == first


async def test_an_operator_puts_one_to_sleep(path: Path, admin: Path) -> None:
    """When its stream has ended. One that is loaded at the start is not woken by requests then; it is by an
    operator, who can end it in its sleep as well."""
    house = House(path, {"api_keys_file": admin}, a={"sleep_level": 1})
    async with house.open() as client:
        await until(lambda: house.states()["a"] == "loaded")
        stream = house.stream("a", max_tokens=50)
        running = asyncio.create_task(stream.run())
        await until(lambda: house.engines["a"].running)
        assert (await put(client, "a", "asleep")).status_code == 202
        await running
        assert len(folded(events(stream.body))[0]["text"]) > 0
        await until(lambda: house.states()["a"] == "asleep")
        assert (await put(client, "a", "asleep")).status_code == 200
        refused = await client.post("/v1/completions", json={"model": "a", "prompt": "hello"})
        assert (refused.status_code, "by an operator" in refused.text) == (503, True)
        await put(client, "a", "loaded")
        await until(lambda: house.states()["a"] == "loaded")
        await text(client, "a")
        await put(client, "a", "asleep")
        await until(lambda: house.states()["a"] == "asleep")
        await put(client, "a", "unloaded")
        await until(lambda: house.states()["a"] == "unloaded")
        assert not house.asleep
        told = await put(client, "a", "asleep")
        assert (told.status_code, "is not loaded" in told.text) == (400, True)
        assert (house.starts, house.wakes) == (["a"], ["a"])


async def test_one_that_cannot_sleep_ends(path: Path, admin: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For lack of the machine's memory, say: it makes room all the same, and is loaded from the disk."""
    house = House(path, {"api_keys_file": admin}, a=SLEEPS)
    async with house.open() as client:
        first = await text(client, "a")
        house.errors = [EngineFailed("its weights take 15.0 GiB")]
        await put(client, "a", "asleep")
        await until(lambda: house.states()["a"] == "unloaded")
        assert "an engine could not go to sleep and is ended: its weights take 15.0 GiB" in caplog.text
        assert await text(client, "a") == first
        assert house.starts == ["a", "a"]


async def test_one_that_cannot_be_woken_is_started(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for it notices nothing but the time."""
    house = House(path, {}, a={**SLEEPS, "unload_after_s": 0.1})
    async with house.open() as client:
        first = await text(client, "a")
        await until(lambda: house.states()["a"] == "asleep")
        house.errors = [EngineFailed("no memory")]
        assert await text(client, "a") == first
        assert "could not be woken, so a new one is started: no memory" in caplog.text
        assert (house.starts, house.wakes) == (["a", "a"], [])


async def test_one_that_dies_in_its_sleep(path: Path) -> None:
    """Is unloaded, which costs nobody anything but the time of a load."""
    house = House(path, {}, a={**SLEEPS, "unload_after_s": 0.1})
    async with house.open() as client:
        first = await text(client, "a")
        await until(lambda: house.states()["a"] == "asleep")
        house.engines["a"].death.set()
        await until(lambda: house.states()["a"] == "unloaded")
        assert not house.asleep
        assert await text(client, "a") == first
        assert house.starts == ["a", "a"]


async def test_other_settings_while_it_sleeps(path: Path) -> None:
    """An engine of other settings takes its place when it is asked for, and none is left of before."""
    house = House(path, {}, a={**SLEEPS, "unload_after_s": 0.1})
    async with house.open() as client:
        await text(client, "a")
        await until(lambda: house.states()["a"] == "asleep")
        engine = house.models["a"].engine
        await hand_over(engine, engine.make, numbers=())
        assert house.states()["a"] == "asleep"
        await hand_over(engine, engine.make)
        assert (house.states()["a"], house.asleep) == ("unloaded", [])
        await text(client, "a")
        assert (house.starts, house.wakes) == (["a", "a"], [])


async def test_the_server_ends_while_one_falls_asleep(path: Path, admin: Path) -> None:
    """No engine is left (House.open looks)."""
    house = House(path, {"api_keys_file": admin}, a=SLEEPS, b=SLEEPS)
    async with house.open() as client:
        await text(client, "a")
        await text(client, "b")
        await put(client, "b", "asleep")
        await until(lambda: house.states()["b"] == "asleep")
        house.start_s = 10
        await put(client, "a", "asleep")
        await asyncio.sleep(0.05)
        await put(client, "b", "loaded")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({}, {"sleep_level": 3}, "sleep_level"),
        ({}, {"asleep_gib": 1}, "set sleep_level: 1, or remove asleep_gib"),
        ({}, {"engine_args": {"enable_sleep_mode": True}}, 'set "sleep_level" as a key of the model'),
        ({"workers": 2}, {"sleep_level": 1}, "set workers: 1 and no cluster"),
    ],
)
def test_what_is_refused(path: Path, settings: dict[str, Any], model: dict[str, Any], message: str) -> None:
    """With what to write instead."""
    one = {"id": "a", "path": path, **model}
    with pytest.raises(ValueError, match=message):
        Settings.model_validate({**settings, "models": (one,)})
