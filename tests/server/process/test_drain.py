"""The end of a process that answers: what runs may finish, for so long."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from fastapi import FastAPI

from server.errors import ConfigurationError
from server.process.port import live, open_port
from tests.helpers import LONG, URL, app_of, eager, slow, until

KEY = {"authorization": "Bearer key"}


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """What a process sets for itself, set back."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@asynccontextmanager
async def living(app: FastAPI) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.Task[None]]]:
    """A client of the application on a port, and its life, which ends of itself."""
    state = app.state.server
    with open_port("127.0.0.1", 0, 0) as listener:
        engines = [model.engine.run() for model in state.models.values()]
        life = asyncio.create_task(live(app, state, listener, engines))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await until(lambda: state.ready)
        async with httpx.AsyncClient(base_url=url, headers=KEY, verify=False) as client:  # noqa: S501
            yield client, life
        await asyncio.wait_for(life, 30)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


class Asked:
    """A request of a minute's work that runs, and what came of it."""

    def __init__(self, client: httpx.AsyncClient, *, stream: bool) -> None:
        self.status, self.body = 0, b""
        self._client, self._stream = client, stream
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._client.stream("POST", URL, json=LONG | {"stream": self._stream}) as response:
            self.status = response.status_code
            async for part in response.aiter_raw():
                self.body += part


async def test_what_runs_may_finish(directory: Path) -> None:
    """After a signal /ready and new requests are a 503; what runs is answered whole, and then it ends."""
    app = app_of(eager(directory, step_s=0.02)[0])
    async with living(app) as (client, life):
        asked = Asked(client, stream=False)
        await until(lambda: app.state.server.in_flight == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: app.state.server.draining)
        assert app.state.server.in_flight == 1
        assert (await client.get("/ready")).status_code == 503
        assert (await client.post(URL, json=LONG)).status_code == 503
        assert not life.done()
        await asked.task
    assert orjson.loads(asked.body)["usage"]["completion_tokens"] == LONG["max_tokens"]


async def cut_off(app: FastAPI, *, stream: bool, num_signals: int = 1) -> tuple[Asked, float]:
    """A request that a process does not wait for, and seconds from the signal to the process's end."""
    async with living(app) as (client, life):
        asked = Asked(client, stream=stream)
        await until(lambda: asked.body if stream else app.state.server.in_flight == 1)
        began = time.monotonic()
        for _ in range(num_signals):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)  # two at once might arrive as one
        await asyncio.wait_for(life, 30)
        await asked.task
    return asked, time.monotonic() - began


async def test_the_time_is_limited(directory: Path) -> None:
    """After drain_timeout_s what still runs is a 503."""
    asked, seconds = await cut_off(app_of(slow(directory)[0], drain_timeout_s=0.2), stream=False)
    assert (asked.status, orjson.loads(asked.body)["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert seconds >= 0.2


async def test_a_second_signal_waits_for_nothing(directory: Path) -> None:
    """However long the time would be."""
    asked, _ = await cut_off(app_of(slow(directory)[0], drain_timeout_s=60), stream=False, num_signals=2)
    assert asked.status == 503


async def test_a_stream_that_is_cut_off_says_so(directory: Path) -> None:
    """Its status has been sent: one frame with the error, and the end."""
    app = app_of(eager(directory, step_s=0.1)[0], drain_timeout_s=0.1)
    asked, _ = await cut_off(app, stream=True)
    *_, failure, done, end = asked.body.split(b"\n\n")
    assert failure.startswith(b'data: {"code":503,"reason":"SERVICE_NOT_AVAILABLE"')
    assert (done, end) == (b"data: [DONE]", b"")


async def test_a_configuration_that_is_found_wrong_late_ends_it(directory: Path) -> None:
    """What runs beside and fails takes the process along, with its own error."""
    app = app_of(slow(directory)[0])

    async def fails() -> None:
        raise ConfigurationError("the weights are not whole")

    with open_port("127.0.0.1", 0, 0) as listener, pytest.raises(ConfigurationError, match="not whole"):
        await asyncio.wait_for(live(app, app.state.server, listener, [fails()]), 30)
