"""An engine that another process runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Phase, Status
from server.engine.supervisor import Patience, Supervisor
from server.engine.vllm.attached import AttachedEngine, Feed
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import ABORT, ADD
from server.engine.work import Work
from server.errors import RequestFailure
from tests.helpers import until
from tests.server.engine.vllm.test_link import engine, received, step

JOB = Job("j", "r", [5], GenerationParams(), (1,), max_tokens=10)
NUMBER = 3
CLIENT_INDEX = 11  # its place in vLLM's EngineCoreRequest


class Attached:
    """A supervisor of engines attached to whatever the test plays, and what was reported of them."""

    def __init__(self, folder: Path) -> None:
        self.feed, self.seen = Feed(), list[Phase]()
        self.stats = EngineMetrics(CollectorRegistry()).of("m")
        self.engines: list[AttachedEngine] = []
        self.folder = folder
        self.supervisor = Supervisor("m", self.make, Work(), patience=Patience((0.0,)))
        self.supervisor.on_status = lambda status: self.seen.append(status.phase)

    def make(self) -> AttachedEngine:
        self.engines.append(AttachedEngine(self.feed, self.folder, NUMBER, self.stats))
        return self.engines[-1]


@pytest.fixture
def attached(tmp_path: Path) -> Attached:
    return Attached(tmp_path)


@asynccontextmanager
async def running(attached: Attached) -> AsyncIterator[Supervisor]:
    task = asyncio.create_task(attached.supervisor.run())
    await until(lambda: bool(attached.engines))
    try:
        yield attached.supervisor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_ready_when_told_and_reached(attached: Attached) -> None:
    """It shows what the other process tells, and is ready once the engine can be sent to as well."""
    async with running(attached) as supervisor:
        for phase in (Phase.LOADING, Phase.WARMING):
            attached.feed.tell(Status(phase))
            await until(lambda phase=phase: attached.seen[-1] is phase)
        attached.feed.tell(Status(Phase.READY))
        await asyncio.sleep(0.05)  # it looks for the engine more than once
        assert not supervisor.status.ready
        with engine(attached.engines[0]._client.link):
            await until(lambda: supervisor.status.ready)
    assert attached.seen[:4] == [Phase.WAITING, Phase.LOADING, Phase.WARMING, Phase.READY]


async def test_jobs_say_whose_they_are(attached: Attached) -> None:
    """The engine is told which client a job is of, so that what comes of it comes here."""
    got: list[Any] = []
    attached.feed.tell(Status(Phase.READY))
    async with running(attached) as supervisor:
        with engine(attached.engines[0]._client.link) as (inputs, outputs):
            await until(lambda: supervisor.status.ready)
            supervisor.work.submit(JOB, got.append)
            _, (_, data) = await received(inputs, 2)
            outputs.send(step("j"))
            await until(lambda: bool(got))
    assert msgspec.msgpack.decode(data)[CLIENT_INDEX] == NUMBER
    assert isinstance(got[0], EngineOutput)


async def test_jobs_go_on_when_the_engine_has_stopped(attached: Attached) -> None:
    """In the next life of it, at the same place."""
    got: list[EngineOutput | RequestFailure] = []
    attached.feed.tell(Status(Phase.READY))
    async with running(attached) as supervisor:
        with engine(attached.engines[0]._client.link) as (inputs, outputs):
            await until(lambda: supervisor.status.ready)
            supervisor.work.submit(JOB, got.append)
            outputs.send(step("j"))
            await until(lambda: bool(got))
            attached.feed.tell(Status(Phase.RESTARTING))
            attached.feed.tell(Status(Phase.READY))  # before anybody has looked
            await until(lambda: len(attached.engines) == 2 and supervisor.status.ready)
            await until(lambda: supervisor.work.num_resuming == 0)
            data = next(data for kind, data in await received(inputs, 4) if kind == ADD and b"j.1" in data)
            outputs.send(step("j.1"))
            await until(lambda: len(got) == 2)
    assert (supervisor.restarts, msgspec.msgpack.decode(data)[1]) == (1, [5, 7])


async def test_a_message_that_cannot_be_read_loses_the_link(attached: Attached) -> None:
    """Jobs go on over a new link to the same engine."""
    got: list[Any] = []
    attached.feed.tell(Status(Phase.READY))
    async with running(attached) as supervisor:
        with engine(attached.engines[0]._client.link) as (_, outputs):
            await until(lambda: supervisor.status.ready)
            supervisor.work.submit(JOB, got.append)
            outputs.send(b"\xc1")
            await until(lambda: len(attached.engines) == 2 and supervisor.status.ready)
            outputs.send(step("j.1"))
            await until(lambda: bool(got))
    assert isinstance(got[0], EngineOutput)


async def test_work_for_nobody_is_given_up(attached: Attached) -> None:
    """What a process that was killed has left in the engine goes on for nobody: its successor ends it."""
    attached.feed.tell(Status(Phase.READY))
    async with running(attached) as supervisor:
        with engine(attached.engines[0]._client.link) as (inputs, outputs):
            await until(lambda: supervisor.status.ready)
            outputs.send(step("left", "behind"))
            _, (kind, data) = await received(inputs, 2)
    assert (kind, msgspec.msgpack.decode(data)) == (ABORT, ["left", "behind"])
