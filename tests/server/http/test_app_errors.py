"""contract.md, "Errors": every row of the table over HTTP, before the first byte and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest

from server.access.keys import digest
from server.engine.base import EngineOutput, Job, Sink
from server.generation.outputs import CandidateText, Delta
from tests.helpers import (
    ASK,
    LONG,
    URL,
    Connection,
    Engine,
    app_of,
    eager,
    events,
    folded,
    number_of,
    running,
    served,
    slow,
    talking,
    until,
)


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, Engine(), id="a/b"))) as client:
        yield client


def error_of(reply: httpx.Response) -> tuple[int, str]:
    """Status and reason of a failure, whose body is the whole envelope."""
    body = reply.json()
    assert body.keys() == {"code", "reason", "message", "metadata", "error"}
    assert body["code"] == reply.status_code
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["message"]
    assert len(reply.headers["x-request-id"]) > 0
    return reply.status_code, body["reason"]


# --- errors ------------------------------------------------------------------------------------------------


async def test_unknown_model(client: httpx.AsyncClient) -> None:
    """A model that is not there, or an empty name, is MODEL_NOT_FOUND, which says which."""
    for name in ("x/y", ""):
        reply = await client.post(URL, json=ASK | {"model": name})
        assert error_of(reply) == (404, "MODEL_NOT_FOUND")
        assert reply.json()["metadata"] == {"reason": f"model: {name} not found"}
    assert error_of(await client.get("/v1/models/x/y")) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("GET", "/nothing", (404, "NOT_FOUND")),
        ("POST", "/v1/chat/completions", (404, "NOT_FOUND")),
        ("POST", "/v1/completions/", (404, "NOT_FOUND")),
        ("GET", "/v1/completions", (405, "METHOD_NOT_ALLOWED")),
        ("DELETE", "/v1/models/a/b", (405, "METHOD_NOT_ALLOWED")),
        ("POST", "/health", (405, "METHOD_NOT_ALLOWED")),
    ],
)
async def test_routes(client: httpx.AsyncClient, method: str, path: str, error: tuple[int, str]) -> None:
    """An unknown route and a wrong method have the envelope of every failure."""
    reply = await client.request(method, path)
    assert error_of(reply) == error
    assert ("allow" in reply.headers) == (error[0] == 405)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, (401, "INVALID_API_KEY")),
        ("Basic k", (401, "INVALID_API_KEY")),
        ("Bearer wrong", (401, "FAILED_TO_AUTH")),
        ("Bearer bob-key", (403, "ACCESS_DENY")),
        ("Bearer alice-key", (200, "")),
    ],
)
async def test_keys(tmp_path: Path, directory: Path, header: str | None, error: tuple[int, str]) -> None:
    """No key, a wrong key, and a key that may not use the model, streamed or not."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('alice-key')}\nbob {digest('bob-key')}\n")
    app = app_of(talking(directory, "he", allowed_keys=("alice",)), api_keys_file=file)
    async with running(app) as client:
        client.headers.pop("authorization")
        headers = {} if header is None else {"authorization": header}
        for stream in (False, True):
            reply = await client.post(URL, json=ASK | {"stream": stream}, headers=headers)
            assert reply.status_code == 200 if error[0] == 200 else error_of(reply) == error
            assert ("www-authenticate" in reply.headers) == (error[0] == 401)


async def test_models_need_a_key(directory: Path) -> None:
    """The lists of models are for those with a key."""
    async with running(app_of(served(directory, Engine()), api_keys=("k",))) as client:
        for path in ("/v1/models", "/v1/models/m"):
            assert error_of(await client.get(path)) == (401, "FAILED_TO_AUTH")


async def test_too_large(directory: Path) -> None:
    """A body over the limit is a 413 that says the limit; one of exactly the limit is not."""
    async with running(app_of(talking(directory, "he"), max_body_bytes=1024)) as client:
        body = orjson.dumps(ASK)
        assert (await client.post(URL, content=body.ljust(1024))).status_code == 200
        reply = await client.post(URL, content=body.ljust(1025))
        assert error_of(reply) == (413, "REQUEST_TOO_LARGE")
        assert reply.json()["metadata"] == {"max_body_bytes": "1024"}
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("announced", [True, False])
async def test_too_large_is_not_read_whole(directory: Path, announced: bool) -> None:
    """A body that is too large is refused when it is announced, else as soon as it is over the limit."""
    headers = [("content-length", str(10**12))] if announced else []
    connection = Connection(app_of(served(directory, Engine()), max_body_bytes=1024), b"", headers=headers)
    connection.body_parts[:] = [b" " * 1000] * 1000
    await connection.run()
    assert connection.sent[0]["status"] == 413
    assert len(connection.body_parts) == (1000 if announced else 998)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"requests_per_minute": 1}, "RATE_LIMIT_EXCEEDED"), ({"tokens_per_minute": 1}, "TOKEN_LIMIT_EXCEEDED")],
)
async def test_limits(directory: Path, limits: dict[str, int], reason: str) -> None:
    """Requests and tokens per minute of a key are limited, and Retry-After says when to come again."""
    async with running(app_of(talking(directory, "he"), rate_limits=limits)) as client:
        assert (await client.post(URL, json=ASK)).status_code == 200
        reply = await client.post(URL, json=ASK)
        assert error_of(reply) == (429, reason)
        assert 1 <= int(reply.headers["retry-after"]) <= 60


async def test_tokens_of_the_prompt_count(directory: Path) -> None:
    """As well as those of the completion: what usage says in all."""
    ask = ASK | {"prompt": [5] * 9, "max_tokens": 1}
    async with running(app_of(talking(directory, "he"), rate_limits={"tokens_per_minute": 10})) as client:
        assert [(await client.post(URL, json=ask)).status_code for _ in range(2)] == [200, 429]


async def test_loading(directory: Path) -> None:
    """A completion of a model that is loading is a 503 with Retry-After."""
    transport = httpx.ASGITransport(app_of(served(directory, Engine())))
    headers = {"authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
        for stream in (False, True):
            reply = await client.post(URL, json=ASK | {"stream": stream})
            assert error_of(reply) == (503, "SERVICE_NOT_AVAILABLE")
            assert 1 <= int(reply.headers["retry-after"]) <= 60


async def test_full(directory: Path) -> None:
    """A request that finds the queue full is a 503 with Retry-After; the one before it is not disturbed."""
    model, engine = slow(directory, max_pending=1)
    app = app_of(model)
    async with running(app) as client:
        connection = Connection(app, LONG)
        first = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        reply = await client.post(URL, json=ASK)
        assert error_of(reply) == (503, "SERVICE_NOT_AVAILABLE")
        assert reply.headers["retry-after"] == "1"
        assert len(engine.running) == 1
        connection.left.set()
        await first


async def test_draining(directory: Path) -> None:
    """A server that shuts down takes no new requests and finishes those that run."""
    model, engine = eager(directory)
    app = app_of(model)
    async with running(app) as client:
        connection = Connection(app, LONG | {"stream": True})
        first = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        app.state.server.draining = True
        reply = await client.post(URL, json=ASK)
        assert error_of(reply) == (503, "SERVICE_NOT_AVAILABLE")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        await first
    assert folded(events(connection.body))[0]["text"] == "a" * 60
    assert app.state.server.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_timeout_before_the_first_token(directory: Path, stream: bool) -> None:
    """A request whose deadline passes before its first token is a 504, and its work ends."""
    model, engine = slow(directory)
    async with running(app_of(model, request_timeout_s=0.02)) as client:
        reply = await client.post(URL, json=LONG | {"stream": stream, "n": 2})
        assert error_of(reply) == (504, "TIMEOUT")
        assert sorted(map(number_of, engine.aborted)) == [0, 1]


async def test_timeout_in_the_stream(directory: Path) -> None:
    """A deadline that passes later is an error frame, then [DONE]."""
    model, engine = eager(directory, step_s=0.02)
    async with running(app_of(model, request_timeout_s=0.6)) as client:  # it would take twice that
        reply = await client.post(URL, json=LONG | {"stream": True})
        chunks = events(reply.content)
        assert (reply.status_code, chunks[-1]["reason"]) == (200, "TIMEOUT")
        assert len(chunks) > 1
        assert 'reason="TIMEOUT"} 1.0' in (await client.get("/metrics")).text
        await until(lambda: not engine.running)


class Broken(Engine):
    """Raises where no engine should, after so many jobs."""

    def submit(self, job: Job, sink: Sink) -> None:
        raise ZeroDivisionError("secret")


@pytest.mark.parametrize("stream", [False, True])
async def test_our_fault(directory: Path, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    """A bug of ours is a 500 with the request's id and nothing else; the log has the traceback."""
    async with running(app_of(served(directory, Broken()))) as client:
        reply = await client.post(URL, json=ASK | {"stream": stream}, headers={"x-request-id": "r-1"})
    assert error_of(reply) == (500, "INTERNAL_ERROR")
    assert "r-1" in reply.json()["message"]
    assert "secret" not in reply.text
    assert "ZeroDivisionError: secret" in caplog.text


async def test_flat_errors(directory: Path) -> None:
    """error_format: flat leaves the error object out."""
    async with running(app_of(served(directory, Engine()), error_format="flat")) as client:
        reply = await client.post(URL, json={})
        assert reply.json().keys() == {"code", "reason", "message", "metadata"}


# --- after the first byte ----------------------------------------------------------------------------------


async def test_death_in_a_stream(directory: Path) -> None:
    """An engine that dies in the middle, where nothing is resumed, is one error frame with both forms of the
    error, then [DONE]."""
    model, engine = eager(directory)
    model.engine.work.resume = False
    app = app_of(model)
    async with running(app):
        connection = Connection(app, LONG | {"stream": True, "n": 2})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body)
        engine.death.set()
        await task
    *chunks, error = events(connection.body)
    assert (error["code"], error["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert error["error"]["message"] == error["message"]
    assert all("error" not in chunk for chunk in chunks)
    assert connection.sent[-1]["more_body"] is False


async def test_death_before_the_reply(directory: Path) -> None:
    """Without a byte sent, the death of the engine is a 503 where nothing is resumed."""
    model, engine = eager(directory)
    model.engine.work.resume = False
    app = app_of(model)
    async with running(app):
        connection = Connection(app, LONG)
        task = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        engine.death.set()
        await task
    assert connection.sent[0]["status"] == 503
    assert orjson.loads(connection.body)["reason"] == "SERVICE_NOT_AVAILABLE"


@pytest.mark.parametrize("after", [0, 1])
async def test_our_fault_in_a_stream(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """A bug of ours is a 500 before the first byte and an error frame after it, without its secret; the log
    has the traceback, and the engine's work ends."""
    model, engine = eager(directory)
    push = CandidateText.push

    def broken(self: CandidateText, output: EngineOutput) -> Delta:
        if self.num_tokens == after:
            raise ZeroDivisionError("secret")
        return push(self, output)

    monkeypatch.setattr(CandidateText, "push", broken)
    async with running(app_of(model)) as client:
        reply = await client.post(URL, json=LONG | {"stream": True}, headers={"x-request-id": "r-1"})
        assert engine.running == set()
    if after:
        assert reply.status_code == 200
        failure = events(reply.content)[-1]
    else:
        assert reply.status_code == 500
        failure = reply.json()
    assert (failure["reason"], "secret" in reply.text) == ("INTERNAL_ERROR", False)
    assert "r-1" in failure["message"]
    assert "ZeroDivisionError: secret" in caplog.text
