"""The application over HTTP, its engine simulated: replies, streams, models, what operators read."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.keys import digest
from server.config.loading import KeyGroup
from server.engine.base import Phase, Requester, Status
from server.http.border import PREFIXES
from server.observe.stalls import UNWELL_S
from tests.helpers import (
    ASK,
    CONTEXT_SIZE,
    URL,
    Engine,
    app_of,
    byte_level,
    events,
    folded,
    model_directory,
    running,
    served,
    talking,
)


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, Engine(), id="a/b", title="T", description="D"))) as client:
        yield client


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


async def test_candidates(directory: Path) -> None:
    """return_candidates tells of all candidates; of nothing more where all of them are choices, or
    in a stream."""
    engine = Engine()
    ask = ASK | {"prompt": ["a", "hello"], "n": 2, "best_of": 4, "seed": 1, "max_tokens": 30}
    async with running(app_of(served(directory, engine))) as client:
        plain = (await client.post(URL, json=ask)).json()
        reply = (await client.post(URL, json=ask | {"return_candidates": True})).json()
        told = reply.pop("candidates")
        assert reply.keys() == plain.keys()
        assert reply["choices"] == plain["choices"]
        for more in ({"best_of": None}, {"best_of": 2, "stream": True}):
            other = await client.post(URL, json=ask | {"return_candidates": True} | more)
            assert (other.status_code, "candidates" in other.text) == (200, False)
    assert [(one["prompt_index"], one["number"]) for one in told] == [
        (p, k) for p in (0, 1) for k in range(4)
    ]
    assert sum(one["completion_tokens"] for one in told) == reply["usage"]["completion_tokens"]
    ends = {one["choice"]: one["finish_reason"] for one in told if one["choice"] is not None}
    assert ends == {choice["index"]: choice["finish_reason"] for choice in reply["choices"]}


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
    """The list has the hosted service's fields and OpenAI's, and the entry has them too."""
    listed = (await client.get("/v1/models")).json()
    (entry,) = listed["data"]
    assert listed == {"object": "list", "data": [entry]}
    assert entry.items() <= (await client.get("/v1/models/a/b")).json().items()
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


async def test_health_is_this_processs(directory: Path) -> None:
    """It does not depend on engines; a loop that has just stood still makes it a 503."""
    app = app_of(served(directory, Engine()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json() == {"status": "ok"}
        loop = app.state.server.loop
        loop._beat_at = time.monotonic() - 7.0
        loop._beat()
        reply = await client.get("/health")
        assert (reply.status_code, reply.json()) == (503, {"status": "stalled", "seconds": 7.0})
        assert "verbatim_loop_stalls_total 1.0" in (await client.get("/metrics")).text
        loop._ended_at -= UNWELL_S
        assert (await client.get("/health")).status_code == 200


async def test_docs_without_a_network(client: httpx.AsyncClient) -> None:
    """All that /docs loads comes from this server, and is there."""
    page = (await client.get("/docs")).text
    links = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(links) >= 3
    assert all(link.startswith("/openapi/assets/") for link in links)
    assert [(await client.get(link)).status_code for link in links] == [200] * len(links)


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


async def test_ready_without_one_that_has_failed(directory: Path) -> None:
    """A model that will never be served is marked with the reason, and holds the others up no longer."""
    app = app_of(served(directory, Engine()), served(directory, Engine(), id="other"))
    async with running(app) as client:
        app.state.server.models["m"].engine.report(Status(Phase.FAILED, detail="no such architecture"))
        reply = await client.get("/ready")
        refused = await client.post(URL, json=ASK)
        assert (reply.status_code, reply.json()["models"]["other"]["phase"]) == (200, "ready")
        assert reply.json()["models"]["m"]["detail"] == "no such architecture"
        assert (refused.status_code, refused.json()["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
        assert "m is not ready: failed (no such architecture)" in refused.json()["message"]
        app.state.server.models["other"].engine.report(Status(Phase.FAILED))
        assert (await client.get("/ready")).status_code == 503


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


async def test_key_file_that_cannot_be_read(directory: Path, tmp_path: Path) -> None:
    """A file of keys that is gone is an alarm in the metrics, and its keys go on working."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('key')}\n")
    async with running(app_of(talking(directory, "he"), api_keys_file=file)) as client:
        assert "verbatim_keys_file_ok 1.0" in (await client.get("/metrics")).text
        file.unlink()
        assert "verbatim_keys_file_ok 0.0" in (await client.get("/metrics")).text
        assert (await client.post(URL, json=ASK)).status_code == 200


@pytest.mark.parametrize(("lowest", "asked", "meant"), [(0, None, 0), (0, 7, 7), (-5, -5, -5), (3, None, 3)])
async def test_whose_turn_it_is(directory: Path, lowest: int, asked: int | None, meant: int) -> None:
    """The engine's queue is told the key, its weight, and the request's priority: one that its key may ask
    for, and where it asks for none, the most urgent up to 0."""
    group = KeyGroup(keys=("key-1",), weight=2.0, priority=lowest)
    app = app_of(served(directory, engine := Engine()), api_keys=("key",), key_groups={"g": group})
    async with running(app) as client:
        reply = await client.post(URL, json=ASK if asked is None else ASK | {"priority": asked})
        refused = await client.post(URL, json=ASK | {"priority": lowest - 1})
    assert (reply.status_code, engine.jobs[0].requester) == (200, Requester("key-1", 2.0, meant))
    assert (refused.status_code, len(engine.jobs)) == (400, 1)
    assert f"must be {lowest} or more for the API key key-1" in refused.json()["message"]


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
