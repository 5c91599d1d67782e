"""Models that are loaded when they are asked for, and share memory, as their clients see them. On simulated
engines that take a moment to start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access.keys import digest
from server.config.adapters import AdapterSettings
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine import residence
from server.engine.base import Job, Report, Sink
from server.engine.replicas import Replicas
from server.engine.served import ServedModel, tune
from server.engine.supervisor import Patience
from server.errors import ConfigurationError, EngineFailed
from server.http import streaming
from server.http.app import build_app
from server.process.groups import Groups
from server.process.models import run_model
from server.text.tokenizer import load_tokenizer
from tests.helpers import (
    CONTEXT_SIZE,
    URL,
    VOCAB_SIZE,
    Connection,
    Engine,
    byte_level,
    events,
    folded,
    model_directory,
    until,
)

BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 20, "ignore_eos": True, "seed": 5}
ON_DEMAND = {"load": "on_demand", "size_gib": 4}


class Slow(Engine):
    """Takes a moment to start, to fall asleep and to wake, and is counted while it runs or sleeps."""

    def __init__(self, house: House, name: str) -> None:
        super().__init__(step_s=0.002)
        self._house, self._name = house, name

    async def start(self, report: Report) -> None:
        self._begin()
        self._house.starts.append(self._name)
        await asyncio.sleep(self._house.start_s)
        if self._house.errors:
            raise self._house.errors.pop()
        await super().start(report)

    async def sleep(self) -> None:
        assert not self.running, "it has jobs"
        await asyncio.sleep(self._house.start_s)
        if self._house.errors:
            raise self._house.errors.pop()
        await super().sleep()
        self._house.alive.remove(self._name)
        self._house.asleep.append(self._name)

    async def wake(self) -> None:
        self._house.asleep.remove(self._name)
        self._begin()
        await asyncio.sleep(self._house.start_s)
        if self._house.errors:
            raise self._house.errors.pop()
        self._house.wakes.append(self._name)

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._name in self._house.alive, "it sleeps"
        super().submit(job, sink)

    async def close(self) -> None:
        await super().close()
        for there in (self._house.alive, self._house.asleep):
            if self._name in there:
                there.remove(self._name)

    def _begin(self) -> None:
        self._house.alive.append(self._name)
        self._house.most = max(self._house.most, len(self._house.alive))


class House:
    """Models a, b and c on engines of their own, and what happens to these. most: that were alive at once."""

    def __init__(self, path: Path, settings: dict[str, Any], **models: dict[str, Any]) -> None:
        self.start_s = 0.02
        self.starts: list[str] = []
        self.wakes: list[str] = []
        self.alive: list[str] = []
        self.asleep: list[str] = []
        self.engines: dict[str, Slow] = {}
        self.errors: list[Exception] = []
        self.most = 0
        keys = tuple(
            ModelSettings.model_validate({"id": name, "path": path, "engine": "simulated", **one})
            for name, one in models.items()
        )
        self.settings = Settings.model_validate({**settings, "models": keys})
        self.models = {one.id: self._model(one) for one in keys}
        self.app = build_app(self.settings, [*self.models.values()])
        self.groups = Groups(self.app.state.server.metrics, self._verify)
        self.app.state.server.place = self.groups.order

    def _model(self, settings: ModelSettings) -> ServedModel:
        def make(number: int) -> Slow:
            self.engines[settings.id] = engine = Slow(self, settings.id)
            return engine

        engine = Replicas(settings.id, make, patience=Patience((0.0,)))
        tune(engine, self.settings, settings)
        tokenizer = load_tokenizer(settings.directory, VOCAB_SIZE)
        return ServedModel(settings, tokenizer, CONTEXT_SIZE, VOCAB_SIZE, engine)

    async def _verify(self, model: ServedModel) -> None:
        if model.settings.sha256:
            raise ConfigurationError("the weights are others.")

    def states(self) -> dict[str, str]:
        return {name: model.engine.state for name, model in self.models.items()}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        self.groups.adopt(self.settings)
        for model in self.models.values():
            self.groups.add(model)
        tasks = [asyncio.create_task(self.groups.run())]
        models = [*self.models.values()]
        tasks += [asyncio.create_task(run_model(model, models, None)) for model in models]
        transport, headers = httpx.ASGITransport(self.app), {"authorization": "Bearer key"}
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://server", headers=headers, timeout=20
            ) as client:
                yield client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not self.alive + self.asleep, "an engine is left"

    def stream(self, name: str, **fields: Any) -> Connection:
        return Connection(self.app, {"model": name, **BODY, "stream": True, **fields})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"), byte_level())


def sharing(path: Path, memory_gib: float, min_loaded_s: float = 0.0, **settings: Any) -> House:
    """Three models of 4 GiB."""
    group = {"models": ["a", "b", "c"], "memory_gib": memory_gib, "min_loaded_s": min_loaded_s}
    return House(path, {"groups": {"g": group}, **settings}, a=ON_DEMAND, b=ON_DEMAND, c=ON_DEMAND)


async def text(client: httpx.AsyncClient, name: str, **fields: Any) -> str:
    response = await client.post(URL, json={"model": name, **BODY, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


async def test_it_is_loaded_when_it_is_asked_for(path: Path) -> None:
    """The server is ready without it, and what it says is what a model says that is always loaded."""
    house = House(path, {}, a={"load": "on_demand"}, b={})
    async with house.open() as client:
        await until(lambda: house.models["b"].engine.status.ready)
        told = await client.get("/ready")
        assert (told.status_code, told.json()["models"]["a"]["state"]) == (200, "unloaded")
        assert await text(client, "a") == await text(client, "b")
        assert house.states() == {"a": "loaded", "b": "loaded"}


async def test_as_many_as_fit(path: Path) -> None:
    """Of three that are asked for in turns two are loaded, and who was used longest ago makes room."""
    house = sharing(path, 8)
    async with house.open() as client:
        first = [await text(client, name) for name in "abc"]
        assert house.states() == {"a": "unloaded", "b": "loaded", "c": "loaded"}
        assert [await text(client, name) for name in "bac"] == [first[1], first[0], first[2]]
        assert house.starts == ["a", "b", "c", "a", "c"]
    assert house.most == 2


async def test_a_stream_says_what_it_waits_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In comments, which change nothing of what it brings: a place in line, then how far the load is."""
    monkeypatch.setattr(streaming, "ALIVE_S", 0.01)
    house = sharing(path, 4)
    house.start_s = 0.1
    async with house.open() as client:
        expected = await text(client, "b")
        first, second = house.stream("a"), house.stream("c")
        await asyncio.gather(first.run(), second.run())
    assert b": model a: waiting\n\n" in first.body
    assert b": model c waits for memory; models before it: 0\n\n" in second.body
    frames = [frame for frame in second.body.split(b"\n\n") if not frame.startswith(b":")]
    (choice,) = folded(events(b"\n\n".join(frames)))
    assert choice["text"] == expected


async def test_no_stream_is_lost(path: Path) -> None:
    """One that runs goes to its end before its model makes room."""
    house = sharing(path, 4)
    async with house.open() as client:
        expected = await text(client, "a", max_tokens=50)
        streams = [house.stream("a", max_tokens=50) for _ in range(3)]
        running = asyncio.gather(*(stream.run() for stream in streams))
        await until(lambda: len(house.engines["a"].running) == 3)
        await text(client, "b")
        await running
    for stream in streams:
        (choice,) = folded(events(stream.body))
        assert choice["text"] == expected
    assert house.starts == ["a", "b"]
    assert house.most == 1


async def test_nobody_is_kept_out(path: Path) -> None:
    """A model that is asked for without a pause makes room for another one that waits, and gets it back."""
    house = sharing(path, 4, min_loaded_s=0.1)
    async with house.open() as client:

        async def insist() -> None:
            while len(set(house.starts)) < 2 or house.starts[-1] != "a":
                await text(client, "a")

        insisting = [asyncio.create_task(insist()) for _ in range(3)]
        await until(lambda: house.states()["a"] == "loaded")
        await text(client, "b")
        await asyncio.gather(*insisting)
    assert house.starts == ["a", "b", "a"]
    assert house.most == 1


async def test_idle(path: Path) -> None:
    """After unload_after_s without a job it is unloaded, and loaded again for the next."""
    house = House(path, {}, a={"load": "on_demand", "unload_after_s": 0.05})
    async with house.open() as client:
        first = await text(client, "a")
        await until(lambda: house.states() == {"a": "unloaded"})
        assert not house.alive
        assert await text(client, "a") == first


async def test_it_waits_so_long_and_no_longer(path: Path) -> None:
    """After max_wait_s a request that waits for its model is a 503 that says when to come back."""
    house = sharing(path, 4, max_wait_s=0.1)
    house.start_s = 0.5
    async with house.open() as client:
        response = await client.post(URL, json={"model": "a", **BODY})
        assert response.status_code == 503
        assert "was not loaded within 0.1 s (max_wait_s)" in response.json()["message"]
        assert response.headers["retry-after"] == "30"
        await until(lambda: house.states()["a"] == "loaded")  # whoever comes back finds it


async def test_a_load_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is tried three times; then those who wait are told why, and so is who comes at once. Later it is tried
    again. The memory is free for others meanwhile."""
    monkeypatch.setattr(residence, "FAILED_S", 0.3)
    house = sharing(path, 4)
    async with house.open() as client:
        house.errors = [EngineFailed("out of memory") for _ in range(3)]
        for _ in range(2):
            response = await client.post(URL, json={"model": "a", **BODY})
            assert response.status_code == 503
            assert "model a could not be loaded: " in response.json()["message"]
            assert "out of memory" in response.json()["message"]
            assert "retry-after" in response.headers
        assert house.starts == ["a", "a", "a"]
        await text(client, "b")
        await asyncio.sleep(0.3)
        await text(client, "a")


async def test_an_engine_that_dies(path: Path) -> None:
    """While it is loading, or while it works: another one takes its place, and no client notices."""
    house = sharing(path, 4)
    async with house.open() as client:
        house.errors = [EngineFailed("killed")]
        first = await text(client, "a", max_tokens=50)
        stream = house.stream("a", max_tokens=50)
        running = asyncio.create_task(stream.run())
        await until(lambda: house.engines["a"].running)
        house.engines["a"].death.set()
        await running
    (choice,) = folded(events(stream.body))
    assert choice["text"] == first
    assert house.starts == ["a"] * 3


async def test_an_engine_that_dies_on_its_way_out(path: Path) -> None:
    """While its last streams end, so that another model can have its memory: they wait for its next load, for
    which they ask themselves, and no client notices."""
    house = sharing(path, 4)
    async with house.open() as client:
        expected = await text(client, "a", max_tokens=50)
        streams = [house.stream("a", max_tokens=50) for _ in range(2)]
        running = asyncio.gather(*(stream.run() for stream in streams))
        await until(lambda: len(house.engines["a"].running) == 2)
        other = asyncio.create_task(text(client, "b"))
        await until(lambda: house.models["a"].engine.work.is_held)
        assert house.engines["a"].running
        house.engines["a"].death.set()
        await other
        await running
    for stream in streams:
        (choice,) = folded(events(stream.body))
        assert choice["text"] == expected
    assert house.most == 1


async def test_one_that_fails_for_good(path: Path) -> None:
    """When its engine dies and vLLM refuses to start another one: it says so from then on, nobody waits for
    it, and its memory is the others'."""
    house = sharing(path, 4)
    async with house.open() as client:
        stream = house.stream("a", max_tokens=50)
        running = asyncio.create_task(stream.run())
        await until(lambda: "a" in house.engines and house.engines["a"].running)
        house.errors = [ConfigurationError("its files are others.")]
        house.engines["a"].death.set()
        await running
        assert b"its files are others." in stream.body
        await text(client, "b")
        response = await client.post(URL, json={"model": "a", **BODY})
        assert (response.status_code, "its files are others." in response.text) == (503, True)
        assert house.states()["a"] == "failed"
        await text(client, "c")


@pytest.fixture
def admin(path: Path, tmp_path: Path) -> Path:
    """A file of keys, where "key" may do everything."""
    file = tmp_path / "keys"
    file.write_text(f"boss {digest('key')} roles=infer,admin\n")
    return file


async def put(client: httpx.AsyncClient, name: str, state: object) -> httpx.Response:
    return await client.put(f"/v1/models/{name}/state", json={"state": state})


async def test_an_operator_loads_and_unloads(path: Path, admin: Path) -> None:
    """A model that is loaded on demand is loaded before anybody asks, and unloaded when its requests have
    ended, which takes nothing from later ones."""
    house = sharing(path, 4, api_keys_file=admin)
    async with house.open() as client:
        told = await put(client, "a", "loaded")
        assert told.status_code == 202, told.text
        assert (told.status_code, told.json()["wanted"]) == (202, "loaded")
        await until(lambda: house.states()["a"] == "loaded")
        assert (await put(client, "a", "loaded")).status_code == 200
        stream = house.stream("a", max_tokens=50)
        running = asyncio.create_task(stream.run())
        await until(lambda: house.engines["a"].running)
        assert (await put(client, "a", "unloaded")).status_code == 202
        await running
        (choice,) = folded(events(stream.body))
        await until(lambda: house.states()["a"] == "unloaded")
        assert await text(client, "a", max_tokens=50) == choice["text"]


async def test_one_that_is_loaded_at_the_start_stays_away(path: Path, admin: Path) -> None:
    """When an operator has unloaded it: requests do not bring it back, and are told so."""
    house = House(path, {"api_keys_file": admin}, a={})
    async with house.open() as client:
        await until(lambda: house.states()["a"] == "loaded")
        await put(client, "a", "unloaded")
        await until(lambda: house.states()["a"] == "unloaded")
        response = await client.post(URL, json={"model": "a", **BODY})
        assert (response.status_code, response.headers["retry-after"]) == (503, "60")
        assert "was taken out of memory by an operator" in response.json()["message"]
        assert (await client.get("/ready")).status_code == 200
        await put(client, "a", "loaded")
        await until(lambda: house.states()["a"] == "loaded")
        await text(client, "a")


@pytest.mark.parametrize(
    ("name", "state", "status", "message"),
    [
        ("a", "gone", 400, 'state (current value: "gone") must be "loaded", "asleep" or "unloaded"'),
        ("a", "asleep", 400, "is only for models with a sleep_level: model a has none"),
        ("nobody", "loaded", 404, "nobody not found"),
        (
            "tuned",
            "loaded",
            400,
            "tuned is an adapter of the model a and is loaded and unloaded with it: use PUT",
        ),
        ("b", "loaded", 403, "the API key boss may not use the model b"),
    ],
)
async def test_what_cannot_be_done(
    path: Path, tmp_path: Path, name: str, state: str, status: int, message: str
) -> None:
    """Is refused with what is wrong. The key is for some of the models."""
    admin = tmp_path / "keys"
    admin.write_text(f"boss {digest('key')} roles=infer,admin models=a,tuned\n")
    house = sharing(path, 4, api_keys_file=admin)
    a = house.models["a"].settings
    tuned = AdapterSettings(id="tuned", path=path)
    a = a.model_copy(update={"adapters": (tuned,)})
    house.app.state.server.models["a"] = house.models["a"].with_settings(a, {})
    async with house.open() as client:
        response = await put(client, name, state)
        assert (response.status_code, message in response.json()["message"]) == (status, True), response.text


async def test_other_weights_than_expected(path: Path) -> None:
    """A model whose checksums do not match is not loaded at all, and the others are."""
    house = House(path, {}, a={"load": "on_demand", "sha256": {"model.safetensors": "0" * 64}}, b={})
    async with house.open() as client:
        await until(lambda: house.states()["b"] == "loaded")
        response = await client.post(URL, json={"model": "a", **BODY})
        assert response.status_code == 503
        assert "the weights are others" in response.json()["message"]
        await text(client, "b")
    assert "a" not in house.starts
