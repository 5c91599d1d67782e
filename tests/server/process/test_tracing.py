"""What a request's spans say, as a collector gets them: of the application on simulated engines."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from server.journal.entry import decode
from server.journal.files import CURRENT
from tests.collector import PHASES, SERVER, Collector, Seen, Tree, seen, traced, tree
from tests.helpers import URL, Connection, eager, slow, talking, until
from tests.server.http.test_resuming import Mortal

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00")
BODY: dict[str, Any] = {"model": "m", "prompt": "hello", "max_tokens": 8}
STREAM = BODY | {"stream": True}


def check_times(tree: Tree, outer: Seen | None = None) -> None:
    """What is in a span is within its time, and its phases follow one another without a gap."""
    outer = outer or tree.root
    inner = tree.inner(outer)
    for one in inner:
        assert outer.start <= one.start <= one.end <= outer.end, one
        assert all(one.start <= at <= one.end for _, at in one.events)
        check_times(tree, one)
    phases = [one for one in inner if one.name not in ("admission", "candidate")]
    assert all(one.end == later.start for one, later in pairwise(phases))


async def test_a_request_and_its_phases(collector: Collector, directory: Path) -> None:
    """The request is a server's span, and admission, queue, prefill and decode are in it, in this order."""
    async with traced(collector, eager(directory)[0]) as (_, client):
        reply = await client.post(URL, json=BODY | {"n": 1, "temperature": 0.5, "seed": 3})
        found = await tree(collector)
    assert found.names() == PHASES
    assert (found.root.kind, found.root.parent, found.root.is_error) == (SERVER, "", False)
    assert reply.headers["traceresponse"] == f"00-{found.root.trace}-{found.root.id}-01"
    check_times(found)
    assert len(found.spans) == 5


async def test_attributes(collector: Collector, directory: Path) -> None:
    """OpenTelemetry's names for generative AI and HTTP, and vLLM's where it has them."""
    async with traced(collector, eager(directory)[0]) as (_, client):
        body = BODY | {"temperature": 0.5, "top_p": 0.9, "seed": 3, "user": "somebody", "stop": ["zz"]}
        reply = await client.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
        found = (await tree(collector)).root.attributes
    assert {name: found[name] for name in found if name.startswith(("http.", "url."))} == {
        "http.request.method": "POST",
        "http.route": "/v3/openai/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/completions",
        "url.scheme": "http",
    }
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "verbatim",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.response.id": reply.json()["id"],
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stream": False,
        "gen_ai.usage.input_tokens": reply.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.request.id": "mine",  # vLLM's, as those below
        "gen_ai.request.n": 1,
        "gen_ai.usage.prompt_tokens": reply.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.completion_tokens": 8,
        "gen_ai.usage.num_sequences": 1,
        "verbatim.key": "anonymous",
        "verbatim.request.num_stop_sequences": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    waited, prefill, decode = (
        found[f"gen_ai.latency.time_in_{name}"] for name in ("queue", "model_prefill", "model_decode")
    )
    assert 0 < waited + prefill < found["gen_ai.latency.time_to_first_token"] < found["gen_ai.latency.e2e"]
    assert found["gen_ai.latency.time_in_model_inference"] == pytest.approx(prefill + decode)


async def test_a_stream_has_the_time_of_its_first_byte(collector: Collector, directory: Path) -> None:
    async with traced(collector, eager(directory)[0]) as (_, client):
        await client.post(URL, json=STREAM)
        found = await tree(collector)
    assert found.names() == PHASES
    ((name, at),) = found.root.events
    first_s = found.root.attributes["gen_ai.response.time_to_first_chunk"]
    assert name == "first byte"
    assert (at - found.root.start) / 1e9 == pytest.approx(first_s, abs=1e-5)
    assert found.root.attributes["gen_ai.request.stream"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_several_candidates(collector: Collector, directory: Path, stream: bool) -> None:
    """Each of n, or of best_of, has a span of its own, with its phases in it."""
    async with traced(collector, eager(directory)[0]) as (_, client):
        await client.post(URL, json=BODY | {"n": 2, "best_of": 2 if stream else 3, "stream": stream})
        found = await tree(collector)
    num = 2 if stream else 3
    assert found.names() == ["admission", *["candidate"] * num]
    candidates = [one for one in found.inner() if one.name == "candidate"]
    assert [one.attributes["verbatim.candidate.number"] for one in candidates] == [*range(num)]
    assert all(found.names(one) == PHASES[1:] for one in candidates)
    assert found.root.attributes["gen_ai.request.choice.count"] == 2
    assert found.root.attributes["verbatim.request.best_of"] == num
    assert found.root.attributes["gen_ai.response.finish_reasons"] == ["length"] * 2
    assert found.root.attributes["gen_ai.usage.num_sequences"] == num
    check_times(found)


async def test_not_every_candidate_of_many_prompts_is_followed(collector: Collector, directory: Path) -> None:
    """A request of a hundred prompts would be four hundred spans."""
    async with traced(collector, eager(directory, step_s=0)[0]) as (_, client):
        await client.post(URL, json=BODY | {"prompt": ["a"] * 100, "max_tokens": 1})
        found = await tree(collector)
    assert found.names() == ["admission", *["candidate"] * 32]
    assert found.root.attributes["verbatim.request.num_prompts"] == 100
    assert found.root.attributes["gen_ai.usage.output_tokens"] == 100


async def test_a_stop_sequence_ends_a_candidate(collector: Collector, directory: Path) -> None:
    """By this server, which finds it, not by the engine."""
    async with traced(collector, talking(directory, "one two three")) as (_, client):
        await client.post(URL, json=BODY | {"max_tokens": 60, "stop": ["two"]})
        await client.post(URL, json=BODY | {"max_tokens": 60})
        first, second = await seen(collector, 2)
    assert first.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert first.attributes["verbatim.candidate.ended_by"] == "server"
    assert second.attributes["verbatim.candidate.ended_by"] == "engine"


async def test_an_engine_dies_and_the_request_goes_on(collector: Collector, directory: Path) -> None:
    """The pause is a span, and so is the prefill of what was there already."""
    mortal = Mortal(directory)
    async with traced(collector, mortal.model) as (app, _):
        connection = Connection(app, STREAM | {"max_tokens": 40, "ignore_eos": True, "seed": 5})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body.count(b"data:") > 3)
        mortal.kill()
        await until(lambda: app.state.server.models["m"].engine.work.num_resuming)
        await asyncio.sleep(0.05)
        mortal.may_start.set()
        await task
        found = await tree(collector)
    assert found.names() == [*PHASES, "resumption", "prefill", "decode"]
    (pause,) = [one for one in found.spans if one.name == "resumption"]
    assert pause.end - pause.start > 0.05e9
    assert [name for name, _ in pause.events] == ["put back", "sent"]
    assert found.root.attributes["verbatim.engines_lost"] == 1
    assert found.root.attributes["gen_ai.usage.output_tokens"] == 40
    assert not found.root.is_error
    check_times(found)


async def test_a_client_that_leaves(collector: Collector, directory: Path) -> None:
    """The trace says so, and how far it was. It is no error of the server's."""
    model, _ = eager(directory)
    async with traced(collector, model) as (app, _):
        connection = Connection(app, STREAM | {"max_tokens": 40, "ignore_eos": True})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body.count(b"data:") > 3)
        connection.left.set()
        await task
        found = await tree(collector)
    assert found.root.attributes["http.response.status_code"] == 499
    assert found.root.attributes["error.type"] == "CLIENT_LEFT"
    assert not found.root.is_error
    assert 0 < found.root.attributes["gen_ai.usage.output_tokens"] < 40
    assert found.names() == PHASES
    check_times(found)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "INVALID_REQUEST_BODY"),
        (BODY | {"max_tokens": -1}, 400, "INVALID_REQUEST_BODY"),
        (BODY | {"model": "other"}, 404, "MODEL_NOT_FOUND"),
    ],
)
async def test_a_bad_request(
    collector: Collector, directory: Path, body: Any, status: int, reason: str
) -> None:
    """Its reason is an attribute. The server has done well, so the span is no error."""
    async with traced(collector, eager(directory)[0]) as (app, _):
        connection = Connection(app, body)
        await connection.run()
        found = await tree(collector)
    assert found.root.attributes["http.response.status_code"] == status
    assert found.root.attributes["error.type"] == json.loads(connection.body)["reason"] == reason
    assert not found.root.is_error
    assert found.names() == ["admission"]


async def test_a_server_that_cannot_answer(collector: Collector, directory: Path) -> None:
    """A 503 is an error."""
    async with traced(collector, slow(directory, max_pending=1)[0]) as (app, _):
        first = Connection(app, BODY)
        task = asyncio.create_task(first.run())
        await until(lambda: app.state.server.models["m"].engine.pending)
        await Connection(app, BODY).run()
        found = await tree(collector)
        first.left.set()
        await task
    assert found.root.attributes["http.response.status_code"] == 503
    assert found.root.is_error
    assert found.root.error == found.root.attributes["error.type"]


async def test_an_engine_that_stays_away(collector: Collector, directory: Path) -> None:
    """A stream that ends in an error frame has the status 200, and is an error."""
    mortal = Mortal(directory)
    async with traced(collector, mortal.model) as (app, _):
        mortal.model.engine.work.waits.resume_timeout_s = 0.1
        connection = Connection(app, STREAM | {"max_tokens": 40, "ignore_eos": True})
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.body.count(b"data:") > 3)
        mortal.kill()
        await task
        found = await tree(collector)
    assert found.root.attributes["http.response.status_code"] == 200
    assert found.root.is_error
    assert found.names() == [*PHASES, "resumption"]
    check_times(found)


async def test_the_clients_trace_goes_on(collector: Collector, directory: Path) -> None:
    """Its traceparent is the parent, and its tracestate travels along, into each part."""
    headers = [TRACEPARENT, ("tracestate", "a=1"), ("tracestate", "b=2")]
    async with traced(collector, eager(directory)[0]) as (app, _):
        await Connection(app, BODY, headers=headers).run()
        found = await tree(collector)
    assert (found.root.trace, found.root.parent) == (TRACE, PARENT)
    assert {(one.trace, one.state) for one in found.spans} == {(TRACE, "a=1,b=2")}
    assert len(found.spans) == 5


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", f"00-{TRACE}-{PARENT}")],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
        [("traceparent", "x" * 5000)],
        [TRACEPARENT, TRACEPARENT],
        [("tracestate", "a=1")],
    ],
)
async def test_what_is_no_trace_is_left(
    collector: Collector, directory: Path, headers: list[tuple[str, str]]
) -> None:
    """A header that is not W3C's begins nothing, and ends nothing: the request has a trace of its own."""
    async with traced(collector, eager(directory)[0]) as (app, _):
        connection = Connection(app, BODY, headers=headers)
        await connection.run()
        found = await tree(collector)
    assert connection.sent[0]["status"] == 200
    assert found.root.trace != TRACE
    assert (found.root.parent, found.root.state) == ("", "")


@pytest.mark.parametrize(
    ("ratio", "follows", "header", "is_traced"),
    [
        (0.0, True, None, False),
        (0.0, True, TRACEPARENT, True),
        (1.0, True, UNSAMPLED, False),
        (1.0, True, None, True),
        (0.0, False, TRACEPARENT, False),
        (1.0, False, UNSAMPLED, True),
    ],
)
async def test_sampling(
    collector: Collector,
    directory: Path,
    ratio: float,
    follows: bool,
    header: tuple[str, str] | None,
    is_traced: bool,
) -> None:
    """The client decides where it is asked, else the ratio. What is not traced has no header in its reply."""
    settings = {"sample_ratio": ratio, "follow_parent": follows}
    async with traced(collector, eager(directory)[0], **settings) as (app, _):
        connection = Connection(app, BODY, headers=[header] if header else [])
        await connection.run()
    names = {name for name, _ in connection.sent[0]["headers"]}
    assert (b"traceresponse" in names) == is_traced == bool(collector.spans)


async def test_a_share_is_sampled(collector: Collector, directory: Path) -> None:
    """Of 400 requests at a ratio of 0.2, 80: the chance of fewer than 40 or more than 120 is below 1e-6."""
    async with traced(collector, eager(directory)[0], sample_ratio=0.2) as (app, _):
        tracer = app.state.server.tracer
        num = sum(tracer.begin([]) is not None for _ in range(400))
    assert 40 <= num <= 120


async def test_the_journal_has_the_id(collector: Collector, directory: Path, tmp_path: Path) -> None:
    """A record names the trace of its request, also of one that was refused; without a trace, none."""
    async with traced(collector, eager(directory)[0], journal=tmp_path) as (app, client):
        reply = await client.post(URL, json=BODY)
        await client.post(URL, json=BODY | {"max_tokens": -1}, headers=dict([TRACEPARENT]))
        await client.post(URL, json=BODY, headers=dict([UNSAMPLED]))
        app.state.server.journal.close()
    lines = (tmp_path / CURRENT).read_bytes().splitlines()
    assert [decode(line).trace for line in lines] == [reply.headers["traceresponse"].split("-")[1], TRACE, ""]
    assert b'"trace"' not in lines[2]


async def test_what_is_not_traced(collector: Collector, directory: Path) -> None:
    """Probes, pages and paths that are not there; the lists of models are, and have no parts."""
    async with traced(collector, eager(directory)[0]) as (_, client):
        for path in ("/health", "/ready", "/metrics", "/", "/v3/openai", "/nowhere"):
            await client.get(path)
        await client.get("/v1/models/m")
        await client.post("/tokenize", json={"model": "m", "prompt": "a"})
    assert [one.name for one in collector.spans] == ["GET /v3/openai/models", "POST /v3/openai/tokenize"]


async def test_no_text_leaves_unless_it_is_asked_for(collector: Collector, directory: Path) -> None:
    """Neither prompts nor texts nor stop sequences are in what is sent; asked for, the first two are."""
    body = BODY | {"prompt": "a secret", "stop": ["never"], "max_tokens": 40}
    async with traced(collector, talking(directory, "the answer")) as (_, client):
        assert (await client.post(URL, json=body)).json()["choices"][0]["text"] == "the answer"
        await seen(collector)
    assert not any(word in str(collector.spans) for word in ("secret", "answer", "never"))
    collector.spans.clear()
    async with traced(collector, talking(directory, "the answer"), record_text=True) as (_, client):
        await client.post(URL, json=body)
        found = (await tree(collector)).root.attributes
    (prompt,), (text,) = (json.loads(found[f"gen_ai.{way}.messages"]) for way in ("input", "output"))
    assert prompt == {"role": "user", "parts": [{"type": "text", "content": "a secret"}]}
    assert text == {"role": "assistant", "parts": [{"type": "text", "content": "the answer"}]}
