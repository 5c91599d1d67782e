"""A front end's way to an engine on another machine, and how it is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import server.engine.vllm.channel as channel_module
import server.engine.vllm.hub as hub_module
from server.engine.vllm.hub import Hub
from server.engine.vllm.wire import ADD, DEAD
from server.errors import EngineFailed
from tests.helpers import until
from tests.hubs import FakeEngine, FrontEnd, between, front_end, job


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """uvloop is the server's, and says nothing of a reader that it has removed, say."""
    return "asyncio", {"use_uvloop": request.param}


async def test_a_hub_that_ends_is_noticed(hub: Hub, engine: FakeEngine) -> None:
    """Its front ends lose the way at once."""
    async with front_end(hub.admit()) as one:
        await asyncio.to_thread(hub.close)
        await until(lambda: one.num_lost == 1)
        one.submit(job("a"))  # whatever is sent then goes nowhere, and fails nothing
        await asyncio.sleep(0.1)


async def test_an_end_that_came_before_listening(hub: Hub, engine: FakeEngine) -> None:
    """The engine said that it is dead, and the hub has gone: the way is lost once."""
    one = FrontEnd(hub.admit())
    await one.reach()
    engine.say(0, DEAD)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(hub.close)
    await asyncio.sleep(0.3)
    one.listen()
    await until(lambda: one.num_lost)
    await asyncio.sleep(0.1)
    assert one.num_lost == 1
    one.client.close()


async def test_a_lost_connection_is_not_made_again(hub: Hub, engine: FakeEngine) -> None:
    """Steps may be missing between the two: the way is lost, once, and the hub hears no more from it."""
    admission = hub.admit()
    async with between(admission) as way, front_end(way.admission) as one:
        way.cut()
        await until(lambda: one.num_lost == 1)
        one.submit(job("a"))
        await asyncio.sleep(0.5)
        assert (way.count, one.num_lost, engine.names(0, ADD)) == (1, 1, [])


async def test_a_silent_connection_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network that takes everything and delivers nothing, both sides notice."""
    for module in (hub_module, channel_module):
        monkeypatch.setattr(module, "HEARTBEAT_MS", 100)
        monkeypatch.setattr(module, "SILENCE_MS", 400)
    hub = Hub("127.0.0.1", tmp_path, 1)
    engine = FakeEngine(hub.folders)
    admission = hub.admit()
    try:
        async with between(admission) as way, front_end(way.admission) as one:
            way.freeze()
            await until(lambda: one.num_lost == 1)

            async def speak() -> None:
                while hub.keeps(admission):
                    engine.step(0, "a", 1)
                    await asyncio.sleep(0.01)

            await asyncio.wait_for(speak(), 30)
    finally:
        hub.close()
        engine.close()


async def test_keys_of_before(hub: Hub, engine: FakeEngine) -> None:
    """Whoever was released is told so, and does not wait for ever."""
    admission = hub.admit()
    hub.release(admission)
    one = FrontEnd(admission)
    with pytest.raises(EngineFailed, match="uses outdated keys"):
        await one.reach()
    one.client.close()


async def test_released_before_it_has_said_anything(hub: Hub) -> None:
    """It was let in, and its first question is answered with the end."""
    admission = hub.admit()
    one = FrontEnd(admission)
    reached = asyncio.create_task(one.reach())  # there is no engine yet
    await until(lambda: hub._slots[0].peer)
    hub.release(admission)
    with pytest.raises(EngineFailed, match="was cut off"):
        await reached
    one.client.close()


async def test_a_hub_that_is_gone(hub: Hub) -> None:
    """A new channel to it says so at once."""
    admission = hub.admit()
    hub.close()
    one = FrontEnd(admission)
    with pytest.raises(EngineFailed, match="was refused or lost"):
        await one.reach()
    one.client.close()
