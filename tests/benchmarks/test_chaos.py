"""What the chaos campaign takes for finished, wrong and lost."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.exchange import Exchange, dechunked
from benchmarks.chaos.faults import cut, garbage
from benchmarks.chaos.kinds import can_stream, drawn, with_stop
from benchmarks.chaos.replies import BrokenReply, Reply, parse
from server.contract.request import parse_request
from server.engine.vllm.wire import decode

HEAD = {"id": "x", "object": "text_completion", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def choice(text: str, finish_reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def stream(*choices: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    """A stream of a chunk for each, with the usage on the last one and a comment before it."""
    chunks = [HEAD | {"choices": [one]} for one in choices]
    chunks[-1] |= {"usage": USAGE}
    frames = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join([*frames[:-1], b": resuming\n\n", frames[-1], end])


def whole(*choices: dict[str, Any]) -> bytes:
    return json.dumps(HEAD | {"choices": choices, "usage": USAGE}).encode()


def test_stream_and_reply_are_the_same() -> None:
    """Whatever chunks it came in."""
    streamed = parse(200, stream(choice("a "), choice("b", "stop")), stream=True)
    assert streamed.difference(parse(200, whole(choice("a b", "stop")), stream=False)) == ""


@pytest.mark.parametrize(
    ("other", "where"),
    [
        (choice("a c", "stop"), ".choices[0].text: 'a b' / 'a c'"),
        (choice("a b", "length"), ".choices[0].finish_reason: 'stop' / 'length'"),
    ],
)
def test_difference_is_named(other: dict[str, Any], where: str) -> None:
    """By its place and both values."""
    one, two = (parse(200, whole(item), stream=False) for item in (choice("a b", "stop"), other))
    assert one.difference(two) == where


@pytest.mark.parametrize(("more", "differs"), [(1e-6, False), (1e-3, True)])
def test_last_bits_of_logprobs_are_no_difference(more: float, differs: bool) -> None:
    """They depend on what else a step computes."""
    one, two = (Reply([choice("a", "stop", [-1.5 + by])], USAGE) for by in (0.0, more))
    assert bool(one.difference(two)) is differs


@pytest.mark.parametrize(
    "body",
    [
        stream(choice("a", "stop"), end=b""),
        stream(choice("a")),
        stream(choice("a", "stop"), choice("b", "stop")),
        b'data: {"code":500,"message":"no"}\n\ndata: [DONE]\n\n',
        b"data: {",
    ],
    ids=["no end", "an unfinished choice", "a choice after its end", "an error", "half a frame"],
)
def test_what_is_no_whole_stream(body: bytes) -> None:
    """Each is a broken reply, never one that is compared."""
    with pytest.raises(BrokenReply):
        parse(200, body, stream=True)


def test_cut_connection_is_no_reply() -> None:
    """A chunked body that has no last chunk."""
    assert dechunked(b"3\r\nabc\r\n0\r\n\r\n") == b"abc"
    with pytest.raises(BrokenReply):
        dechunked(b"3\r\nabc\r\n")


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ("503 model m is not ready: importing", "refused"),
        ("503 the engine has stopped, and no other engine was ready within 120 s (resume_timeout_s)", "lost"),
        ("500 internal error", "lost"),
        ("the connection was cut: b''", "lost"),
    ],
)
def test_what_is_lost(said: str, counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that had begun, and has no whole reply; not what was told at once to come back."""
    monkeypatch.setattr("benchmarks.chaos.campaign.BACK_S", 0.0)

    async def findings() -> Any:
        campaign = Campaign(psutil.Process(), 0, Path(), [], seed=1, every_s=1, kills_workers=False)
        await campaign._broken(Exchange({}), BrokenReply(said))
        return campaign.findings

    found = asyncio.run(findings())
    assert {name: getattr(found, name) for name in ("refused", "lost")} == {
        "refused": int(counted == "refused"),
        "lost": int(counted == "lost"),
    }


def test_requests_are_the_contracts() -> None:
    """Those of a seed are the same ones each time, and each is a request that the server takes."""
    first, second = (
        [drawn(draw, number, sampled=True) for number in range(200)]
        for draw in (random.Random(1), random.Random(1))
    )
    assert first == second
    for fields in [*first, with_stop(random.Random(1), first[0], "a text that is long enough")]:
        body = {"model": "m", **fields, "stream": can_stream(fields)}
        assert parse_request(json.dumps(body).encode())
    assert {"seed", "logprobs", "best_of", "min_p", "echo"} <= {name for fields in first for name in fields}


def test_greedy_requests_have_no_seed() -> None:
    """Nor anything else that is drawn."""
    asked = [drawn(random.Random(number), number, sampled=False) for number in range(200)]
    assert {fields["temperature"] for fields in asked} == {0}
    assert not any("seed" in fields for fields in asked)


@pytest.mark.parametrize("make", [garbage, cut])
def test_garbage_cannot_be_read(make: Any) -> None:
    """Whatever was drawn, an engine's message is something else."""
    for seed in range(200):
        with pytest.raises(Exception):  # noqa: B017, PT011  # of any kind
            decode(make(random.Random(seed)))
