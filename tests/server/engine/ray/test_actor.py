"""The actor of an engine, without Ray: who has a way to the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from server.config.model import ModelSettings
from server.engine.ray.actor import EngineActor
from server.engine.ray.messages import MOST_FRONT_ENDS, EngineOrder


@asynccontextmanager
async def actor(directory: Path) -> AsyncIterator[EngineActor]:
    """Of a model whose weights are not what they should be: so no engine starts."""
    model = ModelSettings(id="m", path=directory, sha256={"weights": "0" * 64})
    order = EngineOrder(model=model, context_size=64, hang_timeout_s=60.0, log_level="warning")
    one = EngineActor(order.model_dump_json(), "nowhere", "127.0.0.1")
    try:
        yield one
    finally:
        await one.close()


async def test_who_is_not_heard_of_makes_room(tmp_path: Path) -> None:
    """When there is no other: front ends that were lost while nobody kept count, say. Those that are heard
    of again keep their places."""
    async with actor(tmp_path) as one:
        names = [str(number) for number in range(MOST_FRONT_ENDS)]
        ways = {name: await one.admit(name) for name in names}
        with pytest.raises(LookupError):
            await one.admit("new")
        await one.know([])
        await one.know(names[1:])
        assert (await one.admit("new"))["slot"] == ways["0"]["slot"]
        assert {name: await one.admit(name) for name in names[1:]} == {name: ways[name] for name in names[1:]}


async def test_front_ends_come_and_go(tmp_path: Path) -> None:
    """As many as like, one after the other, and nothing is left of them."""
    async with actor(tmp_path) as one:
        before = psutil.Process().num_fds()
        for number in range(200):
            await one.admit(str(number))
            await one.release(str(number))
        assert psutil.Process().num_fds() == before
