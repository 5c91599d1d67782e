"""What a stream costs, in facts and not in time, and what a connection that is full does to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from server.engine.base import EngineOutput, Job, Sink
from server.errors import ServiceUnavailable
from server.generation.outputs import Delta, merged
from server.http import streaming
from server.http.protocol import WRITE
from tests.helpers import (
    LONG,
    Connection,
    Engine,
    app_of,
    events,
    folded,
    running,
    served,
    until,
)

STREAM = LONG | {"stream": True}


class Stepped(Engine):
    """Its jobs advance when they are told to, all of them in one step, as vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[str, Sink] = {}

    def submit(self, job: Job, sink: Sink) -> None:
        self.jobs.append(job)
        self.sinks[job.id] = sink

    def abort(self, job_id: str) -> None:
        self.sinks.pop(job_id, None)

    def step(self, letter: int = 66, *, last: bool = False) -> None:
        for sink in list(self.sinks.values()):
            sink(EngineOutput([letter], finish_reason="length" if last else None))
        if last:
            self.sinks.clear()


class Reader(Connection):
    """A client that reads only while it is told to. writes: what the extension was given, if it is there."""

    def __init__(self, *args: Any, extension: bool = False) -> None:
        super().__init__(*args)
        self.reads = asyncio.Event()
        self.reads.set()
        self.writes: list[bytes] | None = [] if extension else None

    def scope(self) -> dict[str, Any]:
        scope = super().scope()
        if self.writes is not None:
            scope["extensions"] = {WRITE: self.write}
        return scope

    def write(self, part: bytes) -> bool:
        assert self.writes is not None
        if self.reads.is_set():
            self.writes.append(part)
            self.sent.append({"type": "http.response.body", "body": part})
        return self.reads.is_set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        await super().send(message)

    @property
    def parts(self) -> list[bytes]:
        """The bodies of the messages so far."""
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


@pytest.mark.parametrize("extension", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_one_write_a_step_and_no_task(directory: Path, n: int, extension: bool) -> None:
    """However many candidates, each step is one message to the connection, and no task is made for it."""
    app = app_of(served(directory, engine := Stepped()))
    async with running(app):
        client = Reader(app, STREAM | {"n": n}, extension=extension)
        task = asyncio.create_task(client.run())
        await until(lambda: len(engine.sinks) == n)
        made = tasks_made(lambda: asyncio.get_running_loop())
        for step in range(20):
            engine.step()
            await asyncio.sleep(0)
            assert len(client.parts) == step + 1
            assert client.parts[-1].count(b"data: ") == n
        assert made == []
        if client.writes is not None:
            assert len(client.writes) == 19  # the first goes with the start
        engine.step(last=True)
        await task
    assert client.sent[-1]["more_body"] is False
    assert client.sent[-1]["body"].endswith(b"data: [DONE]\n\n")
    assert len(folded(events(client.body))) == n


def tasks_made(loop_of: Any) -> list[Any]:
    """A list that grows by each task that is made from now on."""
    loop, made = loop_of(), []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    return made


@pytest.fixture(autouse=True)
async def usual_tasks() -> Any:
    yield
    asyncio.get_running_loop().set_task_factory(None)


@pytest.mark.parametrize("extension", [False, True])
async def test_slow_reader_gets_fewer_chunks(directory: Path, extension: bool) -> None:
    """What comes while the connection is full is one chunk for each choice when it takes more again; the
    reply is the same."""
    app = app_of(served(directory, engine := Stepped()))
    async with running(app):
        client = Reader(app, STREAM | {"n": 2}, extension=extension)
        task = asyncio.create_task(client.run())
        await until(lambda: len(engine.sinks) == 2)
        engine.step()
        await until(lambda: len(client.parts) == 1)
        client.reads.clear()
        for step in range(30):
            engine.step(67 + step % 3)
            await asyncio.sleep(0)
        assert len(client.parts) == 1
        client.reads.set()
        await until(lambda: len(client.parts) >= 3)
        # The first of the thirty was on its way when the connection turned out to be full.
        assert [part.count(b"data: ") for part in client.parts] == [2, 2, 2]
        engine.step(last=True)
        await task
    texts = [choice["text"] for choice in folded(events(client.body))]
    assert texts == ["a" + "bcd" * 10 + "a"] * 2


async def test_end_while_the_connection_is_full(directory: Path) -> None:
    """A reply that ends before its reader has taken it is delivered whole."""
    app = app_of(served(directory, engine := Stepped()))
    async with running(app):
        client = Reader(app, STREAM)
        task = asyncio.create_task(client.run())
        await until(lambda: engine.sinks)
        client.reads.clear()
        for _ in range(5):
            engine.step()
            await asyncio.sleep(0)
        engine.step(last=True)
        await asyncio.sleep(0.01)
        assert (client.sent, task.done()) == ([], False)
        client.reads.set()
        await asyncio.wait_for(task, 30)
    assert folded(events(client.body))[0]["text"] == "a" * 6
    assert client.sent[-1]["more_body"] is False


async def test_failure_while_the_connection_is_full(directory: Path) -> None:
    """What came before a failure is delivered, then the error frame."""
    app = app_of(served(directory, engine := Stepped()))
    async with running(app):
        client = Reader(app, STREAM)
        task = asyncio.create_task(client.run())
        await until(lambda: engine.sinks)
        engine.step()
        await until(lambda: client.parts)
        client.reads.clear()
        engine.step(67)
        engine.step(68)
        for sink in list(engine.sinks.values()):
            sink(ServiceUnavailable("gone"))
        await asyncio.sleep(0.01)
        client.reads.set()
        await asyncio.wait_for(task, 30)
    *chunks, failure = events(client.body)
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "abc"
    assert failure["reason"] == "SERVICE_NOT_AVAILABLE"


async def test_one_that_stops_reading_slows_nobody(directory: Path) -> None:
    """While one client reads nothing, 64 others get every token at its step; the one keeps a single delta."""
    app = app_of(served(directory, engine := Stepped(), max_pending=200))
    async with running(app):
        clients = [Reader(app, STREAM) for _ in range(65)]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await until(lambda: len(engine.sinks) == 65)
        stuck, *others = clients
        stuck.reads.clear()
        for step in range(40):
            engine.step()
            await asyncio.sleep(0)
            assert {len(client.parts) for client in others} == {step + 1}
        assert stuck.sent == []
        engine.step(last=True)
        await asyncio.gather(*tasks[1:])
        stuck.left.set()
        await asyncio.wait_for(tasks[0], 30)
    assert app.state.server.in_flight == 0


async def test_held_deltas_are_one_a_choice(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full connection makes a stream hold is one delta a choice, however long it lasts."""
    held: list[int] = []

    def watched(deltas: list[Delta]) -> list[Delta]:
        held.append(len(merged(deltas)))
        return merged(deltas)

    monkeypatch.setattr(streaming, "merged", watched)
    app = app_of(served(directory, engine := Stepped()))
    async with running(app):
        client = Reader(app, STREAM | {"n": 3})
        task = asyncio.create_task(client.run())
        await until(lambda: len(engine.sinks) == 3)
        client.reads.clear()
        for _ in range(40):
            engine.step()
            await asyncio.sleep(0)
        assert held == [3] * 39  # the first step's are with the connection
        client.left.set()
        await asyncio.wait_for(task, 30)


async def test_deadline_while_the_connection_is_full(directory: Path) -> None:
    """The engine's work ends at the deadline, though the client has not read so far."""
    engine = Stepped()
    app = app_of(served(directory, engine), request_timeout_s=0.2)
    async with running(app):
        client = Reader(app, STREAM)
        asking = asyncio.create_task(client.run())
        await until(lambda: engine.sinks)
        client.reads.clear()
        engine.step()
        await until(lambda: not engine.sinks)
        assert not asking.done()
        client.reads.set()
        await asking
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert b"TIMEOUT" in client.body
