"""HTTP on a Unix socket, on both event loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.http import connections
from tests.helpers import LONG, app_of, eager, running, slow, talking, until
from tests.server.http.sockets import bodies, connected, listening, request, said

STREAM = LONG | {"stream": True}


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The server runs on uvloop; both do the same."""
    return "asyncio", {"use_uvloop": request.param}


async def test_same_bytes(directory: Path, tmp_path: Path) -> None:
    """A stream is as over TCP, chunk by chunk."""
    found = []
    for host in ("127.0.0.1", f"unix:{tmp_path / 's'}"):
        app = app_of(talking(directory, "hello é or hello"))
        async with running(app), listening(app, host=host) as port:
            found.append(bodies(await said(port, request(STREAM))))
    assert found[0] == found[1]


async def test_client_leaves(directory: Path, tmp_path: Path) -> None:
    """A client that goes is noticed, and its work ends."""
    model, engine = slow(directory)
    app = app_of(model)
    async with running(app), listening(app, host=f"unix:{tmp_path / 's'}") as path:
        async with connected(path, request(STREAM)):
            await until(lambda: engine.running)
        await until(lambda: not engine.running)


async def test_one_that_reads_nothing_is_cut_off(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After slow_reader_timeout_s without a byte taken; the kernel would wait for ever."""
    monkeypatch.setattr(connections, "EVERY_S", 0.05)
    model, engine = eager(directory, step_s=0.0)
    app = app_of(model, slow_reader_timeout_s=0.5)
    host = f"unix:{tmp_path / 's'}"
    async with running(app), listening(app, host=host) as path, connected(path) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request(STREAM | {"n": 64, "max_tokens": 59, "logprobs": 5}))
        await until(lambda: app.state.server.in_flight == 1)
        await until(lambda: app.state.server.in_flight == 0, within_s=10)
    assert engine.running == set()
