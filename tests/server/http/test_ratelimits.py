"""Limits of a key over HTTP: the headers of OpenAI, what is refused, and what ends a request's share."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from server.access.keys import digest
from server.http.ratelimits import duration
from tests.helpers import ASK, LONG, URL, Connection, app_of, eager, running, slow, talking, until

LIMITS = {"requests_per_minute": 9, "tokens_per_minute": 100}


def told(reply: httpx.Response) -> dict[str, str]:
    start = "x-ratelimit-"
    return {name[len(start) :]: text for name, text in reply.headers.items() if name.startswith(start)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (59.9991, "1m0s"),
        (59.5554, "59.556s"),
        (360, "6m0s"),
        (61.25, "1m1.25s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """As Go writes a duration, which is how OpenAI does; never less than it is."""
    assert duration(seconds) == text


@pytest.mark.parametrize("stream", [False, True])
async def test_headers(directory: Path, stream: bool) -> None:
    """Each completion says what is left; a stream, which has just begun, with all that it may still take."""
    async with running(app_of(talking(directory, "he"), rate_limits=LIMITS)) as client:
        usage = (await client.post(URL, json=ASK)).json()["usage"]
        left = told(await client.post(URL, json=ASK | {"stream": stream}))
    used = usage["total_tokens"]
    assert 2 <= used < usage["prompt_tokens"] + 8
    most = usage["prompt_tokens"] + 8 if stream else used
    assert (left["limit-requests"], left["remaining-requests"]) == ("9", "7")
    assert (left["limit-tokens"], left["remaining-tokens"]) == ("100", f"{100 - used - most}")
    for name in ("reset-requests", "reset-tokens"):
        assert re.fullmatch(r"5\d(\.\d{1,3})?s|1m0s", left[name])


async def test_headers_of_refusals(directory: Path) -> None:
    """A 429 has them too, and so has a request that is wrong; one whose key is not known has none."""
    async with running(app_of(talking(directory, "he"), rate_limits={"requests_per_minute": 1})) as client:
        wrong = await client.post(URL, json={})
        refused = await client.post(URL, json=ASK)
        unknown = await client.post(URL, json=ASK, headers={"authorization": ""})
    assert [reply.status_code for reply in (wrong, refused, unknown)] == [400, 429, 401]
    assert told(wrong)["remaining-requests"] == told(refused)["remaining-requests"] == "0"
    assert told(refused)["limit-requests"] == "1"
    assert told(unknown) == {}


async def test_no_limit_no_header(directory: Path) -> None:
    """Only limits that are set are told."""
    async with running(app_of(talking(directory, "he"))) as client:
        assert told(await client.post(URL, json=ASK)) == {}
    async with running(app_of(talking(directory, "he"), rate_limits={"tokens_per_minute": 9})) as client:
        assert told(await client.post(URL, json=ASK)).keys() == {
            "limit-tokens",
            "remaining-tokens",
            "reset-tokens",
        }


async def test_limits_of_a_line(directory: Path, tmp_path: Path) -> None:
    """A key has its own limits, from its line and its group; others have those of all."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('a')} group=slow requests_per_minute=5\nbob {digest('b')}\n")
    app = app_of(
        talking(directory, "he"),
        api_keys_file=file,
        rate_limits={"requests_per_minute": 9},
        key_groups={"slow": {"tokens_per_minute": 50}},
    )
    async with running(app) as client:
        alice, bob = [
            told(await client.post(URL, json=ASK, headers={"authorization": f"Bearer {key}"}))
            for key in ("a", "b")
        ]
    assert (alice["limit-requests"], alice["limit-tokens"]) == ("5", "50")
    assert (bob["limit-requests"], "limit-tokens" in bob) == ("9", False)


@pytest.mark.parametrize("stream", [False, True])
async def test_concurrent_requests(directory: Path, stream: bool) -> None:
    """One more than may run at the same time is a 429; when one of them has ended, however it did, there is
    room again."""
    model, engine = slow(directory)
    app = app_of(model, rate_limits={"concurrent_requests": 1})
    async with running(app) as client:
        for _ in range(2):
            connection = Connection(app, LONG | {"stream": stream})
            first = asyncio.create_task(connection.run())
            await until(lambda: engine.running)
            refused = await client.post(URL, json=ASK)
            assert (refused.status_code, refused.json()["reason"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            connection.left.set()
            await first
        assert (await client.post(URL, json={})).status_code == 400
        assert (await client.post(URL, json=ASK | {"model": "none"})).status_code == 404


async def test_tokens_of_what_runs_count(directory: Path) -> None:
    """Requests at the same time cannot each take what is left: what a running one may still take is gone."""
    model, engine = eager(directory, step_s=0.01)
    app = app_of(model, rate_limits={"tokens_per_minute": 50})
    async with running(app) as client:
        connection = Connection(app, LONG | {"stream": True})
        first = asyncio.create_task(connection.run())
        await until(lambda: engine.running)
        refused = await client.post(URL, json=ASK)
        assert (refused.status_code, refused.json()["reason"]) == (429, "TOKEN_LIMIT_EXCEEDED")
        connection.left.set()
        await first
        assert (await client.post(URL, json=ASK)).status_code == 200
