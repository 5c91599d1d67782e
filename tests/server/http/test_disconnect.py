"""A client that leaves ends its work, wherever it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from server.http.disconnect import ClientLeft, unless_client_leaves
from tests.helpers import (
    LONG,
    Connection,
    Engine,
    app_of,
    eager,
    running,
    served,
    slow,
    until,
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("best_of", [2, 3])
async def test_leaving_before_the_first_byte(directory: Path, stream: bool, best_of: int) -> None:
    """A client that leaves while it waits ends the work of every candidate at once, streamed or not."""
    model, engine = slow(directory)
    app = app_of(model)
    async with running(app):
        n = best_of if stream else 2
        connection = Connection(app, LONG | {"stream": stream, "n": n, "best_of": best_of})
        task = asyncio.create_task(connection.run())
        await until(lambda: len(engine.running) == best_of)
        connection.left.set()
        await asyncio.wait_for(task, 30)
        assert (engine.running, model.engine.pending) == (set(), 0)
        assert len(engine.aborted) == best_of
    assert connection.sent == []
    assert app.state.server.in_flight == 0


async def test_leaving_in_a_stream(directory: Path) -> None:
    """A client that leaves in the middle of its stream ends the work within a step."""
    model, engine = eager(directory)
    app = app_of(model)
    async with running(app):
        connection = Connection(app, LONG | {"stream": True, "n": 3})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body)
        connection.left.set()
        await asyncio.wait_for(task, 30)
        assert (engine.running, model.engine.pending) == (set(), 0)
    assert b"[DONE]" not in connection.body


async def test_leaving_a_full_connection(directory: Path) -> None:
    """A client that reads nothing and then leaves ends its work too."""

    class Stuck(Connection):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

    model, engine = eager(directory)
    app = app_of(model)
    async with running(app):
        connection = Stuck(app, LONG | {"stream": True})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body)
        connection.left.set()
        await asyncio.wait_for(task, 30)
        assert engine.running == set()


async def test_leaving_in_the_body(directory: Path) -> None:
    """A client that leaves while it sends its request is nobody to answer."""
    app = app_of(served(directory, engine := Engine()))
    async with running(app):
        connection = Connection(app, b"")
        connection.body_parts.clear()
        connection.left.set()
        await connection.run()
    assert (connection.sent, engine.jobs) == ([], [])


async def test_leaving_is_counted(directory: Path) -> None:
    """A request whose client left is counted as such, with the tokens that were made for it."""
    model, engine = eager(directory)
    app = app_of(model)
    async with running(app) as client:
        connection = Connection(app, LONG)
        task = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        connection.left.set()
        await task
        text = (await client.get("/metrics")).text
    assert 'verbatim_requests_total{key="anonymous",model="m",status="499"} 1.0' in text
    assert 'reason="CLIENT_LEFT"} 1.0' in text


async def test_clean_up_is_waited_for() -> None:
    """When the client has left, what its work has to tidy up is done before anything else goes on."""
    tidy = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            tidy.set()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        await unless_client_leaves({}, receive, work())
    assert tidy.is_set()
