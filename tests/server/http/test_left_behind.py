"""What a request leaves behind when it has ended: nothing. The garbage collector, which would find circles of
references, comes seldom in a server (server/process/port.py)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.generation.candidates import Generation
from server.http.state import Exchange
from tests.helpers import ASK, LONG, URL, Connection, app_of, eager, running, until

KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "stream": {"stream": True},
    "gathered": {"stream": True, "stream_interval": 3},
    "best_of": {"best_of": 3, "n": 2},
    "scored": {"echo": True, "logprobs": 2, "n": 2},
}


class Alive:
    """The generations and exchanges that are alive of those begun meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun, self._all = 0, list[weakref.ref[Any]]()
        for kind in (FollowedGeneration, FollowedExchange):
            self._follow(kind, monkeypatch)

    def _follow(self, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
        init = kind.__init__  # type: ignore[misc]

        def made(one: Any, *arguments: Any, **keywords: Any) -> None:
            init(one, *arguments, **keywords)
            self.num_begun += 1
            self._all.append(weakref.ref(one))

        monkeypatch.setattr(kind, "__init__", made)

    @property
    def num(self) -> int:
        return sum(one() is not None for one in self._all)


class FollowedGeneration(Generation):
    """A generation that can be referred to weakly."""


class FollowedExchange(Exchange):
    """An exchange that can be referred to weakly."""


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Alive]:
    monkeypatch.setattr("server.http.border.Exchange", FollowedExchange)
    monkeypatch.setattr("server.http.routes.Generation", FollowedGeneration)
    gc.collect()
    gc.disable()
    try:
        yield Alive(monkeypatch)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("journal", [False, True])
async def test_after_its_end(kind: str, journal: bool, alive: Alive, directory: Path, tmp_path: Path) -> None:
    """While its connection stays open."""
    model, _ = eager(directory)
    settings: dict[str, Any] = {"journal": {"path": str(tmp_path), "texts": True}} if journal else {}
    async with running(app_of(model, **settings)) as client:
        for _ in range(3):
            assert (await client.post(URL, json=ASK | KINDS[kind])).status_code == 200
        assert alive.num_begun == 6
        await until(lambda: alive.num == 0)


async def test_after_its_client_has_left(alive: Alive, directory: Path) -> None:
    """In the middle of a stream, or while it waits for a whole reply; and its scope, which a connection keeps
    until its next request, leads to nothing of it."""
    model, engine = eager(directory, step_s=0.02)
    async with running(app := app_of(model)):
        for number, stream in enumerate((True, False), 1):
            connection = Connection(app, LONG | {"stream": stream})
            scope = connection.scope()
            asked = asyncio.create_task(app(scope, connection.receive, connection.send))
            await until(lambda number=number: len(engine.jobs) == number)  # type: ignore[misc]
            connection.left.set()
            await asked
            del asked
            await until(lambda: alive.num == 0)
            assert "exchange" not in scope
    assert alive.num_begun == 4
