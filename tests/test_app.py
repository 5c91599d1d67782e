"""The application over HTTP, its engine simulated: replies, streams, errors, clients that leave."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from server.auth import digest
from server.border import EventStream
from server.engine.base import Job, Sink
from server.models import ServedModel
from server.routes import PREFIXES
from server.state import Exchange
from tests.helpers import (
    CONTEXT_SIZE,
    URL,
    Connection,
    Engine,
    app_of,
    byte_level,
    events,
    folded,
    model_directory,
    number_of,
    running,
    says,
    served,
    until,
)

ASK = {"model": "m", "prompt": "hello", "max_tokens": 8, "seed": 1}
LONG = {"model": "m", "prompt": "hello", "max_tokens": 60}


def talking(directory: Path, *texts: str, **settings: Any) -> ServedModel:
    """A model that says these texts."""
    model = served(directory, engine := Engine(), **settings)
    engine._script = says(model, *texts)
    return model


def slow(directory: Path, **settings: Any) -> tuple[ServedModel, Engine]:
    """A model that would talk for a minute."""
    engine = Engine(lambda job, position: 66, step_s=1.0)
    return served(directory, engine, **settings), engine


def eager(directory: Path, *, step_s: float = 0.002) -> tuple[ServedModel, Engine]:
    engine = Engine(lambda job, position: 66, step_s=step_s)
    return served(directory, engine), engine


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, Engine(), id="a/b", title="T", description="D"))) as client:
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


# --- reply and stream --------------------------------------------------------------------------------------


async def test_reply(directory: Path) -> None:
    """The reply has the keys of the contract and no others, an error key least of all."""
    async with running(app_of(talking(directory, "he"))) as client:
        reply = await client.post(URL, json=ASK)
    body = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "m",
        "choices": [{"index": 0, "text": "he", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


async def test_stream(directory: Path) -> None:
    """A stream has its headers, one id, and an end for its one choice."""
    async with running(app_of(talking(directory, "he é"))) as client:
        reply = await client.post(URL, json=ASK | {"stream": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in reply.headers
    chunks = events(reply.content)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert [choice["text"] for chunk in chunks for choice in chunk["choices"]] == ["he", " ", "é", ""]
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert ends == [None, None, None, "stop"]


BODIES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "model": st.just("a/b"),
        "prompt": st.sampled_from(["hello é", "", ["he", "é"], [5, 9], [[5], [200, 6]]]),
    },
    optional={
        "seed": st.integers(0, 9),
        "max_tokens": st.integers(0, 12),
        "n": st.integers(1, 3),
        "logprobs": st.integers(0, 5),
        "echo": st.booleans(),
        "stop": st.lists(st.sampled_from([" ", "e", "\ufffd", "or", "</s>"]), max_size=3),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.lists(st.integers(0, 299), max_size=60),
    },
)


LOGPROBS = ("tokens", "token_logprobs", "top_logprobs")


@given(body=BODIES)
async def test_folded_stream_is_the_reply(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """The folded stream equals the reply for the same seed, field by field, whatever is asked for."""
    body = {"seed": 3} | body
    reply = (await client.post(URL, json=body)).json()
    chunks = events((await client.post(URL, json=body | {"stream": True})).content)
    assert folded(chunks) == reply["choices"]
    assert chunks[-1]["usage"] == reply["usage"]
    for choice in reply["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        logprobs = choice["logprobs"] or {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        for token, own, top in zip(*(logprobs[name] for name in LOGPROBS), strict=True):
            assert (own, top) == (None, None) or top[token] == own


async def test_echo_scores_a_prompt(client: httpx.AsyncClient) -> None:
    """lm-evaluation-harness's request: token ids, one token more, log-probabilities of all of them."""
    ask = {"model": "a/b", "prompt": [[66, 70, 261]], "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1}
    choice = (await client.post(URL, json=ask | {"temperature": 0})).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:3] == ["a", "e", "hello"]
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 1, 2, 7]
    assert {len(values) for values in logprobs.values()} == {4}
    assert choice["text"].startswith("aehello")


USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


@pytest.mark.parametrize(
    ("options", "usages"),
    [
        (None, ["absent", "absent", USAGE]),
        ({}, ["absent", "absent", USAGE]),
        ({"include_usage": False}, ["absent"] * 3),
        ({"include_usage": True}, [None, None, None, USAGE]),
    ],
)
async def test_usage(directory: Path, options: Any, usages: list[Any]) -> None:
    """The usage rides on the last chunk with a choice; when asked for it has a chunk of its own."""
    async with running(app_of(talking(directory, "he "))) as client:
        reply = await client.post(URL, json=ASK | {"stream": True, "stream_options": options})
    chunks = events(reply.content)
    assert [chunk.get("usage", "absent") for chunk in chunks] == usages
    assert [len(chunk["choices"]) for chunk in chunks] == [1, 1, 1, 0][: len(usages)]


async def test_continuous_usage(directory: Path) -> None:
    """continuous_usage_stats: each chunk says how many tokens there are so far."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with running(app_of(talking(directory, "he "))) as client:
        reply = await client.post(URL, json=ASK | {"stream": True, "stream_options": options})
    assert [chunk["usage"]["completion_tokens"] for chunk in events(reply.content)] == [1, 2, 3, 3]


async def test_best_of(directory: Path) -> None:
    """best_of counts every candidate's tokens and returns n; in a stream best_of may be n."""
    model = talking(directory, "he", "hello", "é")
    async with running(app_of(model)) as client:
        reply = (await client.post(URL, json=ASK | {"n": 2, "best_of": 3})).json()
        assert [choice["index"] for choice in reply["choices"]] == [0, 1]
        assert reply["usage"]["completion_tokens"] == 6
        streamed = await client.post(URL, json=ASK | {"n": 2, "best_of": 2, "stream": True})
        assert [choice["text"] for choice in folded(events(streamed.content))] == ["he", "hello"]


@pytest.mark.parametrize(("include", "text"), [(None, "hello wor"), (False, "hello w"), (True, "hello wor")])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop(directory: Path, include: bool | None, text: str, stream: bool) -> None:
    """The stop sequence is in the text unless the request says otherwise, streamed or not."""
    ask = ASK | {"stop": "or", "include_stop_str_in_output": include, "stream": stream}
    async with running(app_of(talking(directory, "hello world"))) as client:
        reply = await client.post(URL, json=ask)
    choices = folded(events(reply.content)) if stream else reply.json()["choices"]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [(text, "stop")]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_prefixes(client: httpx.AsyncClient, prefix: str) -> None:
    """The hosted service's prefixes and /v1 lead to the same routes."""
    ask = ASK | {"model": "a/b"}
    assert (await client.post(f"{prefix}/completions", json=ask)).status_code == 200
    assert (await client.get(f"{prefix}/models")).json()["data"][0]["id"] == "a/b"
    assert (await client.get(f"{prefix}/models/a/b")).json()["id"] == "a/b"


def test_hosted_prefixes_are_all_there() -> None:
    """The four of the hosted service, and the one that everyone else uses."""
    assert set(PREFIXES) == {"/v3/openai", "/v3/openai/v1", "/openai/v1", "/openai", "/v1"}


# --- models and operations ---------------------------------------------------------------------------------


async def test_models(client: httpx.AsyncClient) -> None:
    """The list and the entry have the hosted service's fields and OpenAI's."""
    listed = (await client.get("/v1/models")).json()
    entry = (await client.get("/v1/models/a/b")).json()
    assert listed == {"object": "list", "data": [entry]}
    assert isinstance(entry.pop("created"), int)
    assert entry == {
        "id": "a/b",
        "object": "model",
        "owned_by": "verbatim",
        "title": "T",
        "description": "D",
        "context_size": CONTEXT_SIZE,
        "input_token_price_per_m": 0,
        "output_token_price_per_m": 0,
    }


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs"])
async def test_no_key_needed(client: httpx.AsyncClient, path: str) -> None:
    """What operators and browsers read needs no key."""
    reply = await client.get(path, headers={"authorization": ""})
    assert reply.status_code == 200
    assert reply.headers["x-request-id"]


async def test_ready(directory: Path) -> None:
    """/health is 200 at once; /ready is 503 until all models can answer, and again when draining."""
    app = app_of(served(directory, Engine()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get("/health")).status_code == 200
        reply = await client.get("/ready")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert reply.json()["status"] == "starting"
        assert reply.json()["models"]["m"]["phase"] == "waiting"
    async with running(app) as client:
        reply = await client.get("/ready")
        assert (reply.status_code, reply.json()["status"]) == (200, "ready")
        app.state.server.draining = True
        reply = await client.get("/ready")
        assert (reply.status_code, reply.json()["status"]) == (503, "draining")


async def test_metrics(directory: Path) -> None:
    """Requests, tokens and errors are counted by model and key name."""
    keys = {"authorization": "Bearer k"}
    async with running(app_of(talking(directory, "he"), api_keys=("k",))) as client:
        await client.post(URL, json=ASK, headers=keys)
        await client.post(URL, json=ASK | {"n": 0}, headers=keys)
        await client.post(URL, json=ASK | {"model": "x" * 1000}, headers=keys)
        text = (await client.get("/metrics")).text
    labels = 'key="key-1",model="m"'
    assert f'verbatim_requests_total{{{labels},status="200"}} 1.0' in text
    assert f"verbatim_prompt_tokens_total{{{labels}}} 1.0" in text
    assert f"verbatim_completion_tokens_total{{{labels}}} 2.0" in text
    assert 'verbatim_errors_total{key="key-1",model="",reason="INVALID_REQUEST_BODY"} 1.0' in text
    assert 'verbatim_model_ready{model="m"} 1.0' in text
    assert "verbatim_requests_in_flight 1.0" in text
    assert "xxx" not in text


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
        ("GET", "/", (404, "NOT_FOUND")),
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
    async with running(app_of(model, request_timeout_s=0.1)) as client:
        reply = await client.post(URL, json=LONG | {"stream": True})
        chunks = events(reply.content)
        assert (reply.status_code, chunks[-1]["reason"]) == (200, "TIMEOUT")
        assert len(chunks) > 1
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
    """An engine that dies in the middle is one error frame with both forms of the error, then [DONE]."""
    model, engine = eager(directory)
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
    assert connection.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_death_before_the_reply(directory: Path) -> None:
    """Without a byte sent, the death of the engine is a 503."""
    model, engine = eager(directory)
    app = app_of(model)
    async with running(app):
        connection = Connection(app, LONG)
        task = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        engine.death.set()
        await task
    assert connection.sent[0]["status"] == 503
    assert orjson.loads(connection.body)["reason"] == "SERVICE_NOT_AVAILABLE"


async def test_our_fault_in_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours after the first byte is an error frame without its secret; the log has the traceback."""

    async def frames() -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        raise ZeroDivisionError("secret")

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    closed = asyncio.Event()
    scope = {"type": "http", "exchange": Exchange("r-1")}
    await EventStream(frames(), closed.set)(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    assert (events(body)[-1]["reason"], b"secret" in body) == ("INTERNAL_ERROR", False)
    assert "r-1" in events(body)[-1]["message"]
    assert "ZeroDivisionError: secret" in caplog.text
    assert closed.is_set()


# --- clients that leave ------------------------------------------------------------------------------------


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
        await asyncio.wait_for(task, 1)
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
        await asyncio.wait_for(task, 1)
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
        await asyncio.wait_for(task, 1)
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


# --- request ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["r-1", "a b", "x" * 128])
async def test_request_id_comes_back(client: httpx.AsyncClient, request_id: str) -> None:
    """The client's own request id comes back, on successes and failures alike."""
    for ask in (ASK | {"model": "a/b"}, ASK | {"model": "a/b", "stream": True}, {}):
        reply = await client.post(URL, json=ask, headers={"x-request-id": request_id})
        assert reply.headers.get_list("x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", ["", "x" * 129, "é", "a\tb", "\x7f"])
async def test_odd_request_id_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    """An id that is long, empty or not printable ASCII is replaced by one of ours."""
    headers = [(b"x-request-id", request_id.encode())]
    reply = await client.get("/health", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


async def test_request_log(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """One line a request, with who asked for what; what the client wrote cannot forge another line."""
    with caplog.at_level("INFO", "verbatim.requests"):
        await client.post(URL, json=ASK | {"model": "a/b", "user": "me\nid=forged"})
        await client.get("/health")
    (line,) = caplog.messages
    assert "model=a/b" in line
    assert "status=200" in line
    assert r"user='me\nid=forged'" in line


async def test_two_models(directory: Path, tmp_path: Path) -> None:
    """Each of several models answers under its own id, with its own engine."""
    other = model_directory(tmp_path / "other", byte_level())
    first, second = talking(directory, "he"), talking(other, "é", id="n")
    async with running(app_of(first, second)) as client:
        texts = [
            (await client.post(URL, json=ASK | {"model": name})).json()["choices"][0]["text"] for name in "mn"
        ]
        assert texts == ["he", "é"]
        assert [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]] == ["m", "n"]
