"""Adapters over HTTP: each is a model to its clients, on the engine of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.access.keys import digest
from server.config.adapters import AdapterSettings
from server.config.model import ModelSettings
from server.engine.served import ServedModel
from server.weights.adapters import Adapter
from tests.helpers import ASK, URL, Engine, app_of, running, served

MODELS = "/v3/openai/models"


def with_adapters(directory: Path, engine: Engine, *ids: str, **keys: Any) -> ServedModel:
    """A model m with adapters of these ids."""
    model = served(directory, engine, **keys)
    sections = tuple(AdapterSettings(id=name, path=directory) for name in ids)
    settings = model.settings.model_copy(update={"adapters": sections})
    found = {name: Adapter(name, directory, f"{name}@0", k + 1, 8, 1) for k, name in enumerate(ids)}
    return model.with_settings(settings, found)


async def test_an_adapter_is_listed_after_its_model(directory: Path) -> None:
    """With the model as its parent; what a model shows is as it was."""
    async with running(app_of(with_adapters(directory, Engine(), "a/1"))) as client:
        base, adapter = (await client.get(MODELS)).json()["data"]
        assert (base["id"], adapter["id"], adapter["parent"]) == ("m", "a/1", "m")
        assert "parent" not in base
        assert adapter.keys() - base.keys() == {"parent"}
        shown = (await client.get(f"{MODELS}/a/1")).json()
        assert (shown["id"], shown["parent"], shown["title"]) == ("a/1", "m", "a/1")
        assert (await client.get(f"{MODELS}/m")).json()["adapters"] == ["a/1"]


async def test_a_request_names_the_adapter_as_its_model(directory: Path) -> None:
    """Every candidate has it, of best_of too; those of the model itself have none."""
    engine = Engine()
    async with running(app_of(with_adapters(directory, engine, "a"))) as client:
        reply = await client.post(URL, json=ASK | {"model": "a", "best_of": 3, "n": 1})
        assert reply.json()["model"] == "a"
        assert [job.adapter.id for job in engine.jobs if job.adapter] == ["a"] * 3
        await client.post(URL, json=ASK)
        assert engine.jobs[-1].adapter is None


async def test_another_id_is_a_404(directory: Path) -> None:
    """As of a model."""
    async with running(app_of(with_adapters(directory, Engine(), "a"))) as client:
        assert (await client.post(URL, json=ASK | {"model": "b"})).status_code == 404
        assert (await client.get(f"{MODELS}/b")).status_code == 404


async def test_an_adapter_counts_under_its_own_id(directory: Path) -> None:
    """In the metrics of requests and tokens, that is; readiness is its model's."""
    async with running(app_of(with_adapters(directory, Engine(), "a"))) as client:
        await client.post(URL, json=ASK | {"model": "a"})
        text = (await client.get("/metrics")).text
    assert 'verbatim_requests_total{key="anonymous",model="a",status="200"} 1.0' in text
    assert 'verbatim_model_ready{model="m"} 1.0' in text
    assert 'verbatim_model_ready{model="a"}' not in text


@pytest.mark.parametrize(("own", "status"), [(None, 200), ((), 200), (("alice",), 403)], ids=str)
async def test_keys_of_an_adapter(directory: Path, own: tuple[str, ...] | None, status: int) -> None:
    """Its own list goes before the model's."""
    (file := directory / "keys.txt").write_text(f"bob {digest('key')}\n")
    model = with_adapters(directory, Engine(), "a", allowed_keys=("bob",))
    sections = (AdapterSettings(id="a", path=directory, allowed_keys=own),)
    settings = model.settings.model_copy(update={"adapters": sections})
    model = model.with_settings(settings, {})
    async with running(app_of(model, api_keys_file=file)) as client:
        assert (await client.post(URL, json=ASK | {"model": "a"})).status_code == status


async def test_tokens_are_the_models(directory: Path) -> None:
    """The adapter has its tokenizer."""
    async with running(app_of(with_adapters(directory, Engine(), "a"))) as client:
        replies = [
            (await client.post("/tokenize", json={"model": name, "prompt": "hello"})).json()
            for name in ("m", "a")
        ]
    assert replies[0] == replies[1]


def test_settings_of_an_adapter_are_its_models(directory: Path) -> None:
    """But for its names, its keys, and that it has no adapters."""
    one = AdapterSettings(id="a", path=directory, title="T", description="D", allowed_keys=("bob",))
    model = ModelSettings(id="m", path=directory, limits={"stop": 9}, adapters=(one,))
    settings = model.of_adapter(one)
    assert (settings.id, settings.title, settings.description) == ("a", "T", "D")
    assert (settings.allowed_keys, settings.limits.stop, settings.adapters) == (("bob",), 9, ())
