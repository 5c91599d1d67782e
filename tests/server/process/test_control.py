"""The socket over which a reload is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import server.process.control as control
from server.errors import ConfigurationError, EngineFailed
from server.process.control import answer_reloads, ask

PORT = 1 << 16  # no port, so no server's


@asynccontextmanager
async def answering(reload: Callable[[], Awaitable[str]]) -> AsyncIterator[None]:
    task = asyncio.create_task(answer_reloads(PORT, reload))
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def done() -> str:
    return "done"


async def refused() -> str:
    raise EngineFailed("no memory")


@pytest.mark.parametrize(("reload", "answer"), [(done, (True, "done")), (refused, (False, "no memory"))])
async def test_the_outcome(reload: Callable[[], Awaitable[str]], answer: tuple[bool, str]) -> None:
    """Is what whoever asks is told."""
    async with answering(reload):
        assert await asyncio.to_thread(ask, PORT) == answer


async def test_a_unix_socket(tmp_path: Path) -> None:
    """Names its server as a port does, however long its path."""
    where = tmp_path / ("long" * 30)
    task = asyncio.create_task(answer_reloads(where, done))
    await asyncio.sleep(0.05)
    assert await asyncio.to_thread(ask, where) == (True, "done")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(ConfigurationError, match=f"listens on {where}"):
        ask(where)


async def test_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nothing reloaded."""
    reloads: list[int] = []

    async def reload() -> str:
        reloads.append(1)
        return "done"

    monkeypatch.setattr(control, "_user_of", lambda connection: 12345)
    monkeypatch.setattr(control.os, "getuid", lambda: 0)
    async with answering(reload):
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            await asyncio.to_thread(ask, PORT)
    assert reloads == []


async def test_nothing_is_left_of_it() -> None:
    """A server that has ended is not found, and the next one has the name again."""
    for _ in range(2):
        async with answering(done):
            assert (await asyncio.to_thread(ask, PORT))[0]
        with pytest.raises(ConfigurationError, match=f"no server of this machine listens on port {PORT}"):
            ask(PORT)


async def test_a_name_that_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    """Is no reason not to serve: SIGHUP is left."""
    async with answering(done), answering(refused):
        assert "`verbatim reload` cannot reach this server" in caplog.text
