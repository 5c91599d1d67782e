"""A server in this process whose models share memory, on simulated engines that take a moment to start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Settings
from server.engine.base import Report
from server.engine.simulated.engine import SimulatedEngine
from server.engine.supervisor import Supervisor
from server.errors import EngineFailed
from server.http.app import build_app
from server.http.metrics import Metrics
from server.http.state import State
from server.process.models import RunningModels
from server.process.reload import Reload
from tests.helpers import Connection, events, folded, until

BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 40, "ignore_eos": True, "seed": 5, "stream": True}
LATE = {"load": "on_demand", "size_gib": 4}


class Engines:
    """Those that are alive, by model, and the most that were at once. failing: models, or replicas as "a 1",
    that do not start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[Any, str] = {}
        self.numbers: dict[Any, str] = {}
        self.alive: list[str] = []
        self.starts: list[str] = []
        self.alive_at_start: list[list[str]] = []  # of each of those
        self.failing: set[str] = set()
        self.close_s: dict[str, float] = {}  # that a model's engines take to end
        self.most = 0
        start, close, started = SimulatedEngine.start, SimulatedEngine.close, Supervisor._started

        async def named(supervisor: Supervisor, engine: Any) -> None:
            name, _, number = supervisor.name.removeprefix("model ").partition(", replica ")
            self.names[engine], self.numbers[engine] = name, number or "0"
            await started(supervisor, engine)

        async def starts(engine: SimulatedEngine, report: Report) -> None:
            self.starts.append(self.names[engine])
            self.alive.append(self.names[engine])
            self.alive_at_start.append([*self.alive])
            self.most = max(self.most, len(self.alive))
            await asyncio.sleep(0.02)
            if self.failing & {self.names[engine], f"{self.names[engine]} {self.numbers[engine]}"}:
                raise EngineFailed("out of memory")
            await start(engine, report)

        async def closes(engine: SimulatedEngine) -> None:
            await close(engine)
            await asyncio.sleep(self.close_s.get(self.names.get(engine, ""), 0.0))
            if self.names.get(engine) in self.alive:
                self.alive.remove(self.names.pop(engine))

        monkeypatch.setattr(Supervisor, "_started", named)
        monkeypatch.setattr(SimulatedEngine, "start", starts)
        monkeypatch.setattr(SimulatedEngine, "close", closes)


class Site:
    """A server in this process. memory: of its one group, GiB, whose models are those that are
    named with it."""

    def __init__(self, path: Path, engines: Engines) -> None:
        self.engines = engines
        self._path = path
        self._settings: Settings
        self.state: State

    def settings(self, models: dict[str, Any], group: str = "", memory: float = 4, **keys: Any) -> Settings:
        ones = [
            {"id": name, "path": self._path, "engine": "simulated", **one} for name, one in models.items()
        ]
        groups = (
            {"g": {"models": [*group], "memory_gib": memory, "min_loaded_s": 0.0, **keys}} if group else {}
        )
        return Settings.model_validate({"models": ones, "groups": groups, "drain_timeout_s": 20})

    @asynccontextmanager
    async def open(self, *what: Any, **more: Any) -> AsyncIterator[Site]:
        settings, metrics = self.settings(*what, **more), Metrics()
        running = RunningModels(settings, metrics)
        self.app = build_app(settings, running.load(settings), metrics)
        self.state = self.app.state.server
        running.served = self.state.models
        self._reload = Reload(self.state, running, lambda: self._settings)
        task = asyncio.create_task(running.run())
        await until(lambda: self.state.ready or task.done())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def reload(self, *what: Any, **more: Any) -> str:
        self._settings = self.settings(*what, **more)
        return await self._reload.run()

    def states(self) -> dict[str, str]:
        return {name: model.engine.state for name, model in self.state.models.items()}

    def running(self, name: str) -> int:
        engine = self.state.models[name].engine
        return sum(map(engine.work.num_placed, engine.supervisors))

    async def text(self, name: str, **fields: Any) -> str:
        """What is streamed; the reply's whole body where it is no stream."""
        connection = Connection(self.app, {"model": name, **BODY, **fields})
        await connection.run()
        if connection.sent[0]["status"] != 200:
            return connection.body.decode()
        frames = [frame for frame in connection.body.split(b"\n\n") if not frame.startswith(b":")]
        return str(folded(events(b"\n\n".join(frames)))[0]["text"])

    async def begin(self, name: str, **fields: Any) -> asyncio.Task[str]:
        """A stream that runs."""
        stream = asyncio.create_task(self.text(name, **fields))
        await until(lambda: self.running(name))
        return stream

    async def wait(self, name: str, **fields: Any) -> asyncio.Task[str]:
        """A stream that waits for its model."""
        stream = asyncio.create_task(self.text(name, **fields))
        await until(lambda: self.state.models[name].engine.pending)
        return stream
