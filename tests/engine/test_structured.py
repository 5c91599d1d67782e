"""Structured output on a real engine: what has to outlive the engine, and what does not hold up others."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import KEYS
from tests.serving import TINY, Client, Server, fold, killed_midway, serving, tiny_model, wait_for

pytestmark = pytest.mark.engine

WORDS = "([a-d]{2} ){40}end"
DRAWN: dict[str, Any] = {"temperature": 1.3, "seed": 9, "max_tokens": 150, "logprobs": 1}
GRAMMAR: dict[str, Any] = DRAWN | {"structured_outputs": {"regex": WORDS}, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def server(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {"models": [tiny_model(tiny_path)], "api_keys_file": str(keys_file)}
    with serving(tmp_path_factory.mktemp("structured"), config) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url(), KEYS["alice"], TINY) as client:
        yield client


def test_a_grammar_goes_on_in_the_next_engine(server: Server, client: Client) -> None:
    """When the engine dies in the middle of a text, the next one knows what was said: the stream
    is the same."""
    (whole,) = fold(client.chunks(**GRAMMAR))
    assert re.fullmatch(WORDS, whole["text"])
    resumed = killed_midway(server, client, **GRAMMAR)
    assert resumed["text"] == whole["text"]
    assert resumed["logprobs"]["tokens"] == whole["logprobs"]["tokens"]


def test_candidates_follow_it_each(client: Client) -> None:
    """With best_of, a stop sequence and a seed, as without: the best of them, up to the stop."""
    asked = GRAMMAR | {"n": 2, "best_of": 4, "stop": ["a", " d"], "logprobs": None}
    choices = client.complete(**asked)["choices"]
    assert choices == client.complete(**asked)["choices"]
    for choice in choices:
        assert re.fullmatch("[^a]*(a| d)", choice["text"])
        assert re.match("[a-d]{0,2}( |$)", choice["text"])


def test_values_are_of_what_the_grammar_leaves(client: Client) -> None:
    """Log-probabilities of two choices sum to one: other tokens have none."""
    yes_no = client.choice(**DRAWN | {"logprobs": 5}, structured_outputs={"choice": ["a", "b"]})["logprobs"]
    (first, *_) = yes_no["top_logprobs"]
    shares = {name: value for name, value in first.items() if value > -9999}
    assert set(shares) == {"a", "b"}
    assert sum(2.718281828**value for value in shares.values()) == pytest.approx(1, abs=1e-4)


def test_others_go_on_meanwhile(client: Client) -> None:
    """While large grammars are made, a request without one is answered."""
    choices = [f"{number} {'x' * (number % 7)} {number * 7919}" for number in range(60_000)]
    outputs = {"choice": choices}
    slow = threading.Thread(target=client.ask, kwargs=DRAWN | {"structured_outputs": outputs, "seed": 1})
    began = time.monotonic()
    slow.start()
    waits = []
    while slow.is_alive():
        waits.append(client.ask(max_tokens=1).elapsed.total_seconds())
    slow.join()
    assert len(waits) > 1
    assert max(waits) < (time.monotonic() - began) / 3


def test_what_is_wrong_ends_no_engine(server: Server, client: Client) -> None:
    """Schemas that nobody can follow are refused one after the other, and the engine goes on."""
    engines = {engine.pid for engine in wait_for(server.engines, 5)}
    deep: Any = {"type": "string"}
    for _ in range(400):
        deep = {"type": "array", "items": deep}
    for wrong in ({"json": deep}, {"json": {"$ref": "#/no"}}, {"regex": "(" * 9000}, {"grammar": "("}):
        reply = client.ask(structured_outputs=wrong)
        assert reply.status_code == 400, wrong
        assert "has no valid grammar" in reply.json()["message"]
    client.choice(max_tokens=2)
    assert {engine.pid for engine in server.engines()} == engines
