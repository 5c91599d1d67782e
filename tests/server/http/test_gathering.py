"""Chunks that are gathered: by tokens, by time, and let go where nothing more may come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.errors import ServiceUnavailable
from server.generation.outputs import Delta
from server.http.gathering import Gathering
from tests.helpers import Connection, app_of, events, folded, running, served, talking, until
from tests.server.http.test_streaming import Stepped

ASK = {"model": "m", "prompt": "a", "max_tokens": 12, "stream": True}


def texts(taken: list[list[Delta]]) -> list[list[tuple[int, str]]]:
    return [[(delta.index, delta.text) for delta in deltas] for deltas in taken]


def one(index: int, text: str, reason: str | None = None) -> Delta:
    return Delta(index, text, None, reason, 1)  # type: ignore[arg-type]


def test_so_many_tokens_a_chunk() -> None:
    """Of each choice by itself; its first chunk and its last are as they come."""
    taken: list[list[Delta]] = []
    gathering = Gathering(taken.append, 3, 0)
    for letter in "abcde":
        gathering.push([one(0, letter), one(1, letter.upper())] if letter > "b" else [one(0, letter)])
    gathering.push([one(0, "!", "stop")])
    assert texts(taken) == [[(0, "a")], [(1, "C")], [(0, "bcd")], [(0, "e!")]]


def test_a_beginning_without_text_is_none() -> None:
    """The first chunk is the first that has text: half a character is not."""
    taken: list[list[Delta]] = []
    gathering = Gathering(taken.append, 3, 0)
    for text in ("", "é", "b"):
        gathering.push([one(0, text)])
    assert texts(taken) == [[(0, "")], [(0, "é")]]


def test_flushing_gives_all() -> None:
    """What is held does not wait for tokens that may not come."""
    taken: list[list[Delta]] = []
    gathering = Gathering(taken.append, 9, 0)
    gathering.push([one(0, "a")])
    gathering.push([one(0, "b")])
    gathering.flush()
    gathering.flush()
    assert texts(taken) == [[(0, "a")], [(0, "b")]]


async def test_so_long_between_chunks() -> None:
    """Between two chunks the time passes, in which nothing is lost; the last waits for none."""
    taken: list[list[Delta]] = []
    gathering = Gathering(taken.append, 1, 20)
    for letter in "abc":
        gathering.push([one(0, letter)])
    assert texts(taken) == [[(0, "a")]]
    await asyncio.sleep(0.05)
    gathering.push([one(0, "d", "stop")])
    gathering.close()
    assert texts(taken) == [[(0, "a")], [(0, "bc")], [(0, "d")]]


@pytest.mark.parametrize(("keys", "fields"), [({"stream_interval": 4}, {}), ({}, {"stream_interval": 4})])
async def test_a_gathered_stream_says_the_same(
    directory: Path, keys: dict[str, int], fields: dict[str, int]
) -> None:
    """In fewer chunks, whether the server or the request wants them."""
    chunks = {}
    for gathered in (False, True):
        app = app_of(talking(directory, "wwwwwwwww"), **(keys if gathered else {}))
        async with running(app):
            client = Connection(app, ASK | (fields if gathered else {}))
            await client.run()
        chunks[gathered] = events(client.body)
    assert folded(chunks[True]) == folded(chunks[False])
    assert (len(chunks[False]), len(chunks[True])) == (10, 4)


async def test_a_request_asks_for_no_fewer(directory: Path) -> None:
    """The server's interval is the least."""
    app = app_of(talking(directory, "wwwwwwwww"), stream_interval=4)
    async with running(app):
        client = Connection(app, ASK | {"stream_interval": 1})
        await client.run()
    assert len(events(client.body)) == 4


async def test_what_is_held_comes_before_a_failure(directory: Path) -> None:
    """A client that is told of a failure has all that was generated."""
    engine = Stepped()
    app = app_of(served(directory, engine))
    async with running(app):
        client = Connection(app, ASK | {"stream_interval": 100})
        task = asyncio.create_task(client.run())
        await until(lambda: engine.sinks)
        for _ in range(3):
            engine.step()
        (sink,) = engine.sinks.values()
        sink(ServiceUnavailable("gone", retry_after_s=1))
        await task
    *chunks, failure = events(client.body)
    assert [len(chunk["choices"][0]["text"]) for chunk in chunks] == [1, 2]
    assert failure["reason"] == "SERVICE_NOT_AVAILABLE"
