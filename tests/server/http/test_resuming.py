"""What clients see of an engine that is lost: a pause. On simulated engines, of which the second is
slow to come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from server.engine.base import Report
from server.engine.replicas import Replicas
from server.engine.served import ServedModel
from server.engine.supervisor import Patience
from server.http import streaming
from server.http.sse import comment
from tests.helpers import URL, Connection, Engine, app_of, events, folded, running, served, until

NUM_TOKENS = 40
RESUMING = comment("resuming")
BODY: dict[str, Any] = {
    "model": "m", "prompt": "hello", "max_tokens": NUM_TOKENS, "ignore_eos": True, "seed": 5, "logprobs": 2,
    "n": 2, "stop": ["no such text"],
}  # fmt: skip
STREAM = BODY | {"stream": True}


class Late(Engine):
    """An engine that starts when it may."""

    def __init__(self, may_start: asyncio.Event) -> None:
        super().__init__(step_s=0.005)
        self._may_start = may_start

    async def start(self, report: Report) -> None:
        await self._may_start.wait()
        await super().start(report)


class Mortal:
    """A model whose engines can be killed; the second and later ones start when they may."""

    def __init__(self, directory: Path) -> None:
        self.may_start = asyncio.Event()
        self.engines = [Engine(step_s=0.005), *(Late(self.may_start) for _ in range(4))]
        left: Iterator[Engine] = chain(self.engines, repeat(self.engines[-1]))
        model = served(directory, self.engines[0])
        supervisor = Replicas("m", lambda number: next(left), patience=Patience((0.0,)))
        self.model = ServedModel(
            model.settings, model.tokenizer, model.context_size, model.vocab_size, supervisor
        )
        self.app = app_of(self.model)

    def kill(self, number: int = 0) -> None:
        self.engines[number].death.set()

    async def loses(self, number: int = 0) -> None:
        """That engine dies, and the server has noticed."""
        self.kill(number)
        await until(lambda: not self.model.engine.status.ready)


@pytest.fixture(autouse=True)
def comments_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "ALIVE_S", 0.02)


async def test_a_stream_outlives_its_engine(directory: Path) -> None:
    """It pauses, with comments, and then is what it would have been, text, log-probabilities and all."""
    mortal = Mortal(directory)
    async with running(mortal.app) as client:
        undisturbed = events((await client.post(URL, json=STREAM)).content)
        connection = Connection(mortal.app, STREAM)
        asking = asyncio.create_task(connection.run())
        await until(lambda: connection.body.count(b"data: ") > 20)
        await mortal.loses()
        await until(lambda: connection.body.count(RESUMING) >= 3)
        mortal.may_start.set()
        await asking
    assert connection.sent[0]["status"] == 200
    assert folded(events(connection.body.replace(RESUMING, b""))) == folded(undisturbed)


async def test_a_whole_reply_comes_later(directory: Path) -> None:
    """And is the same."""
    mortal = Mortal(directory)
    async with running(mortal.app) as client:
        undisturbed = (await client.post(URL, json=BODY)).json()
        asking = asyncio.create_task(client.post(URL, json=BODY))
        await until(lambda: mortal.engines[0].running)
        await asyncio.sleep(0.05)
        await mortal.loses()
        mortal.may_start.set()
        reply = await asking
    assert reply.status_code == 200
    assert reply.json()["choices"] == undisturbed["choices"]
    assert reply.json()["usage"] == undisturbed["usage"]


async def test_who_asks_meanwhile_waits_too(directory: Path) -> None:
    """The next engine is expected: a stream begins with a comment, and is answered by that."""
    mortal = Mortal(directory)
    async with running(mortal.app):
        await mortal.loses()
        connection = Connection(mortal.app, STREAM)
        asking = asyncio.create_task(connection.run())
        await until(lambda: connection.body.startswith(RESUMING))
        mortal.may_start.set()
        await asking
    assert connection.body.endswith(b"data: [DONE]\n\n")
    assert mortal.engines[1].jobs


async def test_ready_tells_what_is_lost(directory: Path) -> None:
    """503 and degraded, with how many candidates wait, until the next engine is ready."""
    mortal = Mortal(directory)
    async with running(mortal.app) as client:
        asking = asyncio.create_task(client.post(URL, json=BODY))
        await until(lambda: len(mortal.engines[0].running) == 2)
        await mortal.loses()
        told = await client.get("/ready")
        health = await client.get("/health")
        mortal.may_start.set()
        await asking
        after = await client.get("/ready")
    assert (told.status_code, told.json()["status"]) == (503, "degraded")
    assert told.json()["models"]["m"]["resuming"] == 2
    assert "retry-after" in told.headers
    assert health.status_code == 200
    assert (after.status_code, after.json()["status"]) == (200, "ready")
    assert "resuming" not in after.json()["models"]["m"]


async def test_nobody_waits_for_ever(directory: Path) -> None:
    """After resume_timeout_s: a whole reply is a 503, a stream that has begun one error frame."""
    mortal = Mortal(directory)
    mortal.model.engine.work.waits.resume_timeout_s = 0.3
    async with running(mortal.app) as client:
        connection = Connection(mortal.app, STREAM)
        streaming_one = asyncio.create_task(connection.run())
        asking = asyncio.create_task(client.post(URL, json=BODY))
        await until(lambda: connection.body.count(b"data: ") > 5)
        await mortal.loses()
        reply = await asking
        await streaming_one
    assert (reply.status_code, reply.json()["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert "resume_timeout_s" in reply.json()["message"]
    *_, last = events(connection.body.replace(RESUMING, b""))
    assert (last["code"], last["reason"]) == (503, "SERVICE_NOT_AVAILABLE")


async def test_what_kills_three_engines_is_given_up(directory: Path) -> None:
    """With a 500 that says so, and its id."""
    mortal = Mortal(directory)
    mortal.may_start.set()
    body = BODY | {"n": 1}
    for engine in mortal.engines:
        engine.step_s = 100.0
    async with running(mortal.app) as client:
        asking = asyncio.create_task(client.post(URL, json=body, headers={"x-request-id": "killer"}))
        for number in range(3):
            await until(lambda: mortal.engines[number].running)  # noqa: B023
            mortal.kill(number)
        reply = await asking
    assert (reply.status_code, reply.json()["reason"]) == (500, "INTERNAL_ERROR")
    assert "died 3 times" in reply.json()["message"]
    assert "killer" in reply.json()["message"]
