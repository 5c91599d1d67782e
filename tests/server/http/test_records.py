"""What the journal has of each kind of request. On simulated engines."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from server.engine.base import Job, Sink
from server.engine.served import ServedModel
from server.http.state import State
from server.journal.entry import Entry, decode
from server.journal.files import CURRENT
from tests.helpers import (
    ASK,
    URL,
    Connection,
    Engine,
    app_of,
    events,
    running,
    served,
    slow,
    talking,
    until,
)
from tests.server.http.test_resuming import Mortal


def app_with(
    folder: Path, *models: ServedModel, settings: dict[str, Any] | None = None, **journal: Any
) -> FastAPI:
    return app_of(*models, journal={"path": folder, **journal}, **(settings or {}))


def records(app: FastAPI, folder: Path) -> list[Entry]:
    """All of them; no more come after that."""
    state: State = app.state.server
    assert state.journal is not None
    state.journal.close()
    return [decode(line) for line in (folder / CURRENT).read_bytes().splitlines()]


async def asked(directory: Path, folder: Path, *bodies: dict[str, Any], **journal: Any) -> list[Entry]:
    """The records of these requests."""
    app = app_with(folder, served(directory, Engine()), **journal)
    async with running(app) as client:
        for body in bodies:
            await client.post(URL, json=body)
    return records(app, folder)


async def test_a_whole_reply(directory: Path, tmp_path: Path) -> None:
    """Ids, names, counts, times, the values in force, and which were given."""
    (one,) = await asked(directory, tmp_path, ASK | {"temperature": 0.5, "user": "u-7", "n": 2})
    assert (one.key, one.model, one.status, one.reason, one.user) == ("anonymous", "m", 200, "", "u-7")
    assert (one.prompt_tokens, one.completion_tokens, one.stream, one.gone) == (1, 16, False, False)
    assert one.given == ["max_tokens", "n", "prompt", "seed", "temperature", "user"]
    expected = {"max_tokens": 8, "n": 2, "best_of": 2, "temperature": 0.5, "top_k": 0, "seed": 1}
    assert one.params.items() >= expected.items()
    assert [(c.tokens, c.finish, c.choice) for c in one.candidates] == [(8, "length", 0), (8, "length", 1)]
    assert one.queue_s is not None
    assert one.first_s is not None
    assert 0 <= one.queue_s <= one.first_s <= one.total_s < 30
    assert one.time.endswith("Z")


async def test_what_a_client_wrote_is_not_kept_unasked(directory: Path, tmp_path: Path) -> None:
    """No prompt, no text, no stop sequence, no address, no salt."""
    body = ASK | {"prompt": "Xanthippe", "stop": ["Yggdrasil"], "cache_salt": "Zarathustra", "echo": True}
    await asked(directory, tmp_path, body)
    text = (tmp_path / CURRENT).read_text()
    assert not any(word in text for word in ("Xanthippe", "Yggdrasil", "Zarathustra", "127.0.0.1"))
    assert '"cache_salt"' in text  # that it was given is


async def test_a_salt_is_never_kept(directory: Path, tmp_path: Path) -> None:
    body = ASK | {"cache_salt": "Zarathustra", "nonsense": "Yggdrasil"}
    (one,) = await asked(directory, tmp_path, body, prompts=True, texts=True, client_address=True)
    assert one.request == {**ASK}
    assert one.client == "127.0.0.1"


async def test_the_seed_that_was_drawn(directory: Path, tmp_path: Path) -> None:
    """A request without one can be sent again with it, and gets the same."""
    body = {name: value for name, value in ASK.items() if name != "seed"}
    (one,) = await asked(directory, tmp_path, body, texts=True)
    again = tmp_path / "again"
    (other,) = await asked(directory, again, body | {"seed": one.params["seed"]}, texts=True)
    assert [c.text for c in one.candidates] == [c.text for c in other.candidates]


async def test_a_stream(directory: Path, tmp_path: Path) -> None:
    """The record has the text that its chunks add up to, and their usage."""
    app = app_with(tmp_path, served(directory, Engine()), texts=True)
    body = ASK | {"stream": True, "n": 2, "return_token_ids": True}
    async with running(app) as client:
        chunks = events((await client.post(URL, json=body)).content)
    (one,) = records(app, tmp_path)
    for candidate in one.candidates:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == candidate.choice]
        assert candidate.text == "".join(part["text"] for part in parts)
        assert candidate.token_ids == [token for part in parts for token in part["token_ids"]]
    usage = chunks[-1]["usage"]
    assert (one.prompt_tokens, one.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert one.stream


async def test_the_candidates_of_best_of(directory: Path, tmp_path: Path) -> None:
    """Each is there, with its tokens, which add up to the usage; those that were given up say so."""
    body = ASK | {"prompt": ["a", "hello"], "best_of": 8, "n": 2, "max_tokens": 30}
    app = app_with(tmp_path, served(directory, Engine()), texts=True)
    async with running(app) as client:
        reply = (await client.post(URL, json=body)).json()
    (one,) = records(app, tmp_path)
    assert len(one.candidates) == 16
    assert (
        sum(c.tokens for c in one.candidates) == one.completion_tokens == reply["usage"]["completion_tokens"]
    )
    assert {c.finish for c in one.candidates} <= {"length", "stop", "given_up"}
    chosen = {c.choice: c for c in one.candidates if c.choice is not None}
    assert {k: (c.text, c.finish) for k, c in chosen.items()} == {
        c["index"]: (c["text"], c["finish_reason"]) for c in reply["choices"]
    }


@pytest.mark.parametrize(
    ("body", "status", "reason", "model"),
    [
        ({"model": "m"}, 400, "INVALID_REQUEST_BODY", ""),
        (ASK | {"temperature": 3}, 400, "INVALID_REQUEST_BODY", ""),
        (ASK | {"n": 5, "best_of": 2}, 400, "INVALID_REQUEST_BODY", "m"),
        (ASK | {"model": "x" * 1000}, 404, "MODEL_NOT_FOUND", "x" * 200),
    ],
)
async def test_refused(
    directory: Path, tmp_path: Path, body: dict[str, Any], status: int, reason: str, model: str
) -> None:
    """Its status and why; no tokens."""
    (one,) = await asked(directory, tmp_path, body)
    assert (one.status, one.reason, one.model) == (status, reason, model)
    assert (one.prompt_tokens, one.completion_tokens, one.candidates) == (0, 0, [])
    assert one.is_error


async def test_refused_for_its_key_or_its_limits(directory: Path, tmp_path: Path) -> None:
    """A wrong key has no name, and is not kept itself; a limit names the key."""
    settings = {"api_keys": ("Xanthippe",), "rate_limits": {"requests_per_minute": 1}}
    app = app_with(tmp_path, served(directory, Engine()), settings=settings)
    async with running(app) as client:
        await client.post(URL, json=ASK)
        for _ in range(2):
            await client.post(URL, json=ASK, headers={"authorization": "Bearer Xanthippe"})
    found = records(app, tmp_path)
    assert [(one.status, one.key) for one in found] == [(401, ""), (200, "key-1"), (429, "key-1")]
    assert "Xanthippe" not in (tmp_path / CURRENT).read_text()


async def test_a_client_that_leaves(directory: Path, tmp_path: Path) -> None:
    """Status 499, and the tokens so far; a candidate that was cut off has no finish."""
    model, _ = slow(directory)
    app = app_with(tmp_path, model)
    model.engine.make = lambda number: Engine(lambda job, position: 66, step_s=0.01)
    async with running(app):
        connection = Connection(app, ASK | {"stream": True, "max_tokens": 60, "ignore_eos": True})
        going = asyncio.create_task(connection.run())
        await until(lambda: len(connection.sent) > 5)
        connection.left.set()
        await going
    (one,) = records(app, tmp_path)
    assert (one.status, one.gone, one.is_error) == (499, True, False)
    assert 1 <= one.completion_tokens == one.candidates[0].tokens < 60
    assert one.candidates[0].finish is None


async def test_an_engine_that_dies(directory: Path, tmp_path: Path) -> None:
    """Each loss is there: which candidate, where, why, and how long it took to go on."""
    mortal = Mortal(directory)
    app = app_with(tmp_path, mortal.model)
    body = {"model": "m", "prompt": "hello", "max_tokens": 40, "n": 2, "ignore_eos": True, "stream": True}
    async with running(app):
        connection = Connection(app, body)
        going = asyncio.create_task(connection.run())
        await until(lambda: len(connection.sent) > 10)
        mortal.may_start.set()
        mortal.kill()
        await going
    (one,) = records(app, tmp_path)
    assert [(f.candidate, f.replica) for f in one.faults] == [(0, 0), (1, 0)]
    for fault in one.faults:
        assert fault.cause == "the simulated engine was told to die"
        assert fault.resumed_s is not None
        assert 0 < fault.at_s < one.total_s
    assert [(c.tokens, c.finish) for c in one.candidates] == [(40, "length")] * 2
    assert one.status == 200


@dataclass
class Seen:
    """What an engine says of a job."""

    cached_tokens: int | None
    queued: float = 10.0
    scheduled: float = 10.5


class Caching(Engine):
    """An engine that had so many tokens of each candidate's prompt, one after another."""

    def __init__(self, *cached: int) -> None:
        super().__init__()
        self._cached = iter(cached)

    def submit(self, job: Job, sink: Sink) -> None:
        assert job.trail is not None
        job.trail.follow(Seen(next(self._cached)))
        super().submit(job, sink)


async def test_what_was_cached_and_how_long_it_waited(directory: Path, tmp_path: Path) -> None:
    """Of each prompt the least that a candidate of it found; the engine's own queue is part of the wait."""
    app = app_with(tmp_path, served(directory, Caching(4, 2, 0, 5)))
    async with running(app) as client:
        await client.post(URL, json=ASK | {"prompt": ["hello", "world"], "n": 2})
    (one,) = records(app, tmp_path)
    assert one.cached_tokens == 2
    assert [c.cached for c in one.candidates] == [4, 2, 0, 5]
    assert one.queue_s is not None
    assert 0.5 <= one.queue_s < 0.5 + one.total_s


async def test_prompts_as_ids_are_not_kept_with_patterns(directory: Path, tmp_path: Path) -> None:
    """No pattern sees what they say; nor what the ids of a text say."""
    body = ASK | {"prompt": [5, 6], "return_token_ids": True}
    bare, redacted = tmp_path / "bare", tmp_path / "redacted"
    (one,) = await asked(directory, bare, body, prompts=True, texts=True)
    (other,) = await asked(directory, redacted, body, prompts=True, texts=True, redact=("secret",))
    assert one.request is not None
    assert one.request["prompt"] == [5, 6]
    assert one.candidates[0].token_ids
    assert other.request is not None
    assert "prompt" not in other.request
    assert other.redacted == ["prompt"]
    assert other.candidates[0].token_ids is None


async def test_redaction(directory: Path, tmp_path: Path) -> None:
    """In prompts and in texts, and not in what the client gets."""
    app = app_with(tmp_path, talking(directory, "hello world"), prompts=True, texts=True, redact=("h[a-z]+",))
    async with running(app) as client:
        reply = (await client.post(URL, json=ASK | {"prompt": "say hello"})).json()
    (one,) = records(app, tmp_path)
    assert reply["choices"][0]["text"].startswith("hello world")
    assert one.request is not None
    assert one.request["prompt"] == "say [redacted]"
    assert (one.candidates[0].text or "").startswith("[redacted] world")
    assert one.redacted == ["prompt", "text"]


async def test_without_a_journal_nothing_is_followed(directory: Path) -> None:
    """It costs nothing then: no trail, no second look at a delta."""
    app = app_of(served(directory, engine := Engine()))
    async with running(app) as client:
        await client.post(URL, json=ASK)
    assert app.state.server.journal is None
    assert [job.trail for job in engine.jobs] == [None]
