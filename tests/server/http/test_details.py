"""What the status page has for admins: keys with their limits and use, and the nodes of a cluster."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.access.keys import digest
from tests.helpers import ASK, URL, app_of, running, talking, until
from tests.server.http.test_app_errors import error_of
from tests.server.http.test_resuming import Mortal

PATH = "/status/details"
LINES = {
    "ops": "roles=admin",
    "alice": "requests_per_minute=5 tokens_per_minute=1000 concurrent_requests=2 models=m",
    "late": "expires=2020-01-01",
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("".join(f"{name} {digest(name)} {rest}\n" for name, rest in LINES.items()))
    return file


async def details(client: httpx.AsyncClient, key: str = "ops") -> httpx.Response:
    return await client.get(PATH, headers={"authorization": f"Bearer {key}"})


def app(directory: Path, keys: Path | None = None) -> FastAPI:
    return app_of(talking(directory, "he"), api_keys_file=keys)


async def test_keys_with_limits_and_use(directory: Path, keys: Path) -> None:
    """Each key with what it may, its limits, and what it has used of them."""
    async with running(app(directory, keys)) as client:
        reply = await client.post(URL, json=ASK, headers={"authorization": "Bearer alice"})
        shown = {one.pop("name"): one for one in (await details(client)).json()["keys"]}
    none = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"))
    assert shown["ops"] == {
        "roles": ["admin"], "models": None, "expires": None, "has_expired": False, "limits": none, "used": {}
    }  # fmt: skip
    alice = shown["alice"]
    assert (alice["roles"], alice["models"]) == (["infer"], ["m"])
    assert list(alice["limits"].values()) == [5, 1000, 2]
    assert list(alice["used"].values()) == [1, reply.json()["usage"]["total_tokens"], 0]
    assert (shown["late"]["expires"], shown["late"]["has_expired"]) == ("2020-01-01", True)


async def test_for_admins(directory: Path, keys: Path) -> None:
    """A key without the role is refused, and told how to make one that has it."""
    async with running(app(directory, keys)) as client:
        assert error_of(await details(client, "wrong")) == (401, "FAILED_TO_AUTH")
        refusal = await details(client, "alice")
    assert error_of(refusal) == (403, "ACCESS_DENY")
    assert "verbatim keys new NAME --role admin" in refusal.json()["message"]


async def test_without_keys(directory: Path) -> None:
    """Where anybody may ask for everything, anybody sees it."""
    async with running(app(directory)) as client:
        (anybody,) = (await details(client, "any")).json()["keys"]
    assert anybody["name"] == "anonymous"


async def test_nodes(directory: Path, keys: Path) -> None:
    """In a cluster, where each replica is; nothing where there is none."""
    made = app(directory, keys)
    async with running(made) as client:
        assert (await details(client)).json()["nodes"] == {}
        state: Any = made.state.server
        state.nodes = lambda: {"m": {0: "10.0.0.7"}}
        assert (await details(client)).json()["nodes"] == {"m": {"0": "10.0.0.7"}}


async def test_what_was_lost(directory: Path) -> None:
    """An engine that died, why, and what went on after it, the last of them last."""
    mortal = Mortal(directory)
    losses = mortal.app.state.server.metrics.losses
    mortal.model.engine.losses = partial(losses.of, "m")
    async with running(mortal.app) as client:
        asking = asyncio.create_task(client.post(URL, json=ASK | {"max_tokens": 50}))
        await until(lambda: bool(mortal.engines[0].running))
        await mortal.loses()
        mortal.may_start.set()
        await asking
        died, ready, resumed = (await details(client)).json()["recent"]
    assert (died["model"], died["engine"], died["at"] <= ready["at"]) == ("m", "0", True)
    assert ready["what"].startswith("the next engine is ready after ")
    assert resumed["what"] == "1 candidate continued on another engine"


async def test_several_workers(directory: Path) -> None:
    """None of them knows all that was lost: the page goes by their sums then."""
    async with running(app_of(talking(directory, "he"), workers=2)) as client:
        assert (await details(client)).json()["recent"] is None


async def test_the_log_has_refusals_alone(
    directory: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that is open asks every other second, which is not to fill the log."""
    caplog.set_level(logging.INFO)
    async with running(app(directory, keys)) as client:
        await details(client)
        await details(client, "alice")
    (line,) = (
        one.message for one in caplog.records if one.name.startswith("verbatim") and PATH in one.message
    )
    assert "ACCESS_DENY" in line
