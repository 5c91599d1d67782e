"""What is seen of models that are not in memory: /health, /ready, the metrics and the greeting."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from server.engine.base import Phase, Status
from server.errors import ConfigurationError, EngineFailed
from server.process.greeting import greet
from tests.helpers import URL, until
from tests.server.process.test_groups import BODY, ON_DEMAND, House, admin, path, put, sharing, text

__all__ = ["admin", "path"]  # fixtures


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"verbatim_{name} ")))


async def test_an_unloaded_model_is_not_ready_and_nothing_is_wrong(path: Path) -> None:
    """The server is well and ready; the metrics say of the model that it cannot answer at once, and why."""
    house = sharing(path, 4)
    async with house.open() as client:
        await until(lambda: set(house.states().values()) == {"unloaded"})
        assert (await client.get("/health")).status_code == 200
        told = await client.get("/ready")
        assert (told.status_code, told.json()["status"]) == (200, "ready")
        assert told.json()["models"]["a"]["state"] == "unloaded"
        assert "idle_seconds" not in told.json()["models"]["a"]
        for ready, state in ((0, "unloaded"), (1, "loaded")):
            assert await metric(client, 'model_ready{model="a"}') == ready
            assert await metric(client, 'replica_ready{engine="0",model="a"}') == ready
            assert await metric(client, f'model_state{{model="a",state="{state}"}}') == 1
            await text(client, "a")
        assert (await client.get("/ready")).json()["models"]["a"]["idle_seconds"] < 10


async def test_an_operator_has_unloaded_it(path: Path, admin: Path) -> None:
    """As well, also of one that is loaded at the start."""
    house = House(path, {"api_keys_file": admin}, a={})
    async with house.open() as client:
        await until(lambda: house.states()["a"] == "loaded")
        assert await metric(client, 'model_ready{model="a"}') == 1
        await put(client, "a", "unloaded")
        await until(lambda: house.states()["a"] == "unloaded")
        assert (await client.get("/ready")).json()["status"] == "ready"
        assert await metric(client, 'model_ready{model="a"}') == 0


async def test_a_load_that_fails_is_counted(path: Path) -> None:
    """And /ready says why, with a server that is ready: its other models are."""
    house = sharing(path, 4)
    async with house.open() as client:
        house.errors = [EngineFailed("out of memory") for _ in range(3)]
        assert (await client.post(URL, json={"model": "a", **BODY})).status_code == 503
        assert await metric(client, 'model_load_failures_total{model="a"}') == 1
        told = (await client.get("/ready")).json()
        assert (told["status"], told["models"]["a"]["state"]) == ("ready", "unloaded")
        assert "out of memory" in told["models"]["a"]["detail"]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_greeting(path: Path, capsys: pytest.CaptureFixture[str], fails: bool) -> None:
    """Says which models are loaded when they are asked for; its request is for one that can be."""
    house = House(path, {}, c={}, a=ON_DEMAND, b=ON_DEMAND)
    if fails:
        house.errors = [ConfigurationError("no such device")]
    async with house.open():
        if fails:
            await until(lambda: house.starts and not house.models["c"].engine.is_running)
            house.models["c"].engine.report(Status(Phase.FAILED))
        await until(lambda: house.app.state.server.ready)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            greeting = asyncio.create_task(greet(house.app.state.server, listener))
            said = ""
            while "curl" not in said:
                await asyncio.sleep(0.01)
                said += capsys.readouterr().out
            greeting.cancel()
    assert "s. Loaded on demand: a, b. Try:" in said
    assert f'"model": "{"a" if fails else "c"}"' in said
