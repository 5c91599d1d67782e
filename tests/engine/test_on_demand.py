"""Three models for memory that holds two, on real engines: who is loaded, what a client sees of it, and what
happens when an engine is killed. The tests follow each other on one server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_adapters import ATTENTION, make_adapter
from tests.serving import START_S, Client, Server, fold, frames, serving, tiny_model, wait_for

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
Choices = list[dict[str, Any]]
REQUEST: dict[str, Any] = {"prompt": "hello", "max_tokens": 24, "seed": 7, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    loads = {"a": "at_start", "b": "on_demand", "c": "on_demand"}
    folder = tmp_path_factory.mktemp("on-demand")
    make_adapter(folder / "tuned", tiny_path, 0, r=4, lora_alpha=8, target_modules=ATTENTION)
    models = [tiny_model(tiny_path, id=name, load=load, size_gib=1) for name, load in loads.items()]
    for model in models[:2]:
        model["adapters"] = [{"id": f"{model['id']}-tuned", "path": str(folder / "tuned")}]
    groups = {"g": {"models": ["a", "b", "c"], "memory_gib": 2, "min_loaded_s": 1}}
    with serving(folder, {"models": models, "groups": groups}) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def expected(server: Server) -> Choices:
    """What the model says that is loaded at the start; the others are of the same weights."""
    with Client(server.url(), "any", "a") as client:
        return fold(client.chunks(**REQUEST))


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url(), "any") as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def state(client: Client, name: str) -> str:
    return str(client.get("/ready").json()["models"][name]["state"])


def phase(client: Client, name: str) -> str:
    return str(client.get("/ready").json()["models"][name]["phase"])


def stream(pool: ThreadPoolExecutor, server: Server, model: str, **fields: Any) -> Future[Choices]:
    """What is streamed, over a connection of its own."""

    def run() -> Choices:
        with Client(server.url(), "any", model) as client:
            return fold(client.chunks(**REQUEST | fields))

    return pool.submit(run)


def kill_newest(server: Server) -> None:
    newest = max(server.engines(), key=lambda process: process.create_time())
    os.kill(newest.pid, signal.SIGKILL)


def test_a_stream_waits_for_its_model(client: Client, expected: Choices) -> None:
    """It says how far that is, and brings what a model says that was there from the beginning."""
    assert state(client, "b") == "unloaded"
    response = client.ask(model="b", stream=True, **REQUEST)
    assert ": model b: importing" in response.text
    *chunks, _ = frames(response.text)
    assert fold([json.loads(chunk) for chunk in chunks]) == expected
    assert state(client, "b") == "loaded"
    assert client.get("/ready").json()["models"]["a"]["size_bytes"] == 2**30


def test_one_makes_room(server: Server, client: Client, expected: Choices, pool: ThreadPoolExecutor) -> None:
    """The one that is not loaded at the start does, when the stream that runs on it has ended; and an engine
    that is killed while it is loading is followed by another."""
    running = stream(pool, server, "b", max_tokens=200)
    wait_for(lambda: client.running("b"), START_S)
    waiting = stream(pool, server, "c")
    wait_for(lambda: phase(client, "c") == "loading weights", START_S)
    kill_newest(server)
    assert running.result()[0]["text"].startswith(expected[0]["text"])
    assert waiting.result() == expected
    assert {name: state(client, name) for name in "abc"} == {"a": "loaded", "b": "unloaded", "c": "loaded"}
    assert client.metric('verbatim_model_unloads_total{model="b",why="room"}') == 1


@pytest.mark.long
def test_one_that_is_killed_at_work(server: Server, client: Client, pool: ThreadPoolExecutor) -> None:
    """Is started again, with the memory that it has, and its stream goes on."""
    undisturbed = stream(pool, server, "a", max_tokens=200).result()
    disturbed = stream(pool, server, "c", max_tokens=200)
    wait_for(lambda: client.running("c"), START_S)
    kill_newest(server)
    assert disturbed.result() == undisturbed
    assert client.metric('verbatim_engine_deaths_total{engine="0",model="c"}') == 1


@pytest.mark.long
def test_an_adapter_of_one_that_is_not_loaded(
    server: Server, client: Client, pool: ThreadPoolExecutor
) -> None:
    """Who asks for it has its model loaded, again too, and gets the adapter's text."""
    assert state(client, "b") == "unloaded"
    tuned, plain = (stream(pool, server, name).result() for name in ("a-tuned", "a"))
    assert stream(pool, server, "b-tuned").result() == tuned != plain
    assert state(client, "b") == "loaded"
