"""Speculative decoding on a real engine: every reply is that of the same model without it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.conftest import KEYS, configuration
from tests.serving import (
    ANSWER_S,
    CONTEXT_SIZE,
    ON_GPU,
    TINY,
    Client,
    Server,
    killed_midway,
    serving,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(ON_GPU, reason="the model runs on V2 there"),
]

WORDS = ("red", "blue", "cat", "dog", "the", "of")
# A few values of each field, the neutral one first.
FIELDS: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.2, 0.7, 1.1),
    "repetition_penalty": (1, 1.3),
    "frequency_penalty": (0, 0.7),
    "presence_penalty": (0, 0.5, -1.5),
    "logit_bias": (None, {"100": 5, "260": 3}),
    "bad_words": (None, ["the", " of"]),
    "allowed_token_ids": (None, [*range(3, 20_000)]),
    "min_p": (0, 0.1),
    "top_k": (-1, 8),
    "top_p": (1, 0.8),
    "stop": (None, ["a", "e"]),
    "min_tokens": (0, 20),
    "logprobs": (None, 0, 3),
    "n": (1, 2),
    "best_of": (None, 4),
    "echo": (False, True),
    "structured_outputs": (None, None, {"regex": "([a-d]{2} ){10}end"}),
}


@pytest.fixture(scope="module")
def server(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The tiny model as the others' server has it, with drafts."""
    config = configuration(tiny_path, keys_file)
    model = config["models"].pop()
    model["engine_args"]["speculative_config"] = {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 3,
    }
    config["models"] = [model]
    with serving(tmp_path_factory.mktemp("speculation"), config) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def drafting(server: Server) -> Iterator[Client]:
    with Client(server.url(), KEYS["alice"], TINY) as client:
        yield client


def bodies(num: int) -> list[dict[str, Any]]:
    """Prompts that repeat themselves, with half of the fields set each."""
    rng, made = random.Random(4), []
    for seed in range(num):
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, 8))) + " "
        fields = {name: rng.choice((values[0], *values)) for name, values in FIELDS.items()}
        if fields["structured_outputs"]:
            fields |= {"min_tokens": 0, "allowed_token_ids": None}
        if fields["best_of"]:
            fields["echo"] = False
        body = {"model": TINY, "prompt": prompt * rng.randint(1, 3), "max_tokens": 25, "seed": seed}
        made.append(body | fields)
    return made


def test_replies_are_the_same(client: Client, drafting: Client) -> None:
    """Of 50 requests with all fields, many at once: text, tokens, ends and usage;
    log-probabilities within rounding."""
    asked = bodies(50)
    with ThreadPoolExecutor(8) as pool:
        without, with_drafts = (
            [*pool.map(lambda body, one=one: one.complete(**body), asked)] for one in (client, drafting)
        )
    for body, reply, other in zip(asked, without, with_drafts, strict=True):
        assert other["usage"] == reply["usage"], body
        for choice, drafted in zip(reply["choices"], other["choices"], strict=True):
            assert drafted["text"] == choice["text"], body
            assert drafted["finish_reason"] == choice["finish_reason"], body
            if choice["logprobs"] is not None:
                known, found = choice["logprobs"], drafted["logprobs"]
                assert found["tokens"] == known["tokens"], body
                values = [value for value in known["token_logprobs"] if value is not None]
                assert [value for value in found["token_logprobs"] if value is not None] == pytest.approx(
                    values, abs=1e-4
                )


def test_up_to_the_context(client: Client, drafting: Client) -> None:
    """A text that fills the context ends there, whatever was drafted."""
    asked = {"model": TINY, "prompt": [[300, 301] * 60], "max_tokens": CONTEXT_SIZE - 120, "temperature": 0}
    assert drafting.complete(**asked) | {"id": "", "created": 0} == client.complete(**asked) | {
        "id": "",
        "created": 0,
    }


def test_named_tokens_keep_their_values(client: Client, drafting: Client) -> None:
    """logprob_token_ids, where several tokens come in a step."""
    asked = {"model": TINY, "prompt": "red red red red", "max_tokens": 40, "logprobs": 0, "temperature": 0}
    values = [
        [
            value
            for place in one.choice(**asked, logprob_token_ids=[5, 600])["logprobs"]["top_logprobs"]
            for value in place.values()
        ]
        for one in (client, drafting)
    ]
    assert values[1] == pytest.approx(values[0], abs=1e-4)


def test_drafts_are_accepted(server: Server, drafting: Client) -> None:
    """And counted under vLLM's own names."""
    drafting.complete(prompt="red red red red red", max_tokens=60, temperature=0)
    metrics = httpx.get(server.url() + "/metrics", timeout=ANSWER_S).text
    counts = {
        name: float(value)
        for name, value in re.findall(r"vllm:spec_decode_num_(\w+)_total\{.*\} (\S+)\n", metrics)
    }
    assert counts["draft_tokens"] >= counts["drafts"] > 0
    assert counts["draft_tokens"] > counts["accepted_tokens"] > 0


@pytest.mark.long
def test_a_stream_goes_on_in_the_next_engine(server: Server, client: Client, drafting: Client) -> None:
    """When the engine is killed in the middle, the text is still that without drafts."""
    asked = {"max_tokens": 200, "temperature": 0.4, "seed": 3, "frequency_penalty": 0.2}
    (whole,) = client.complete(model=TINY, **asked)["choices"]
    resumed = killed_midway(server, drafting, **asked)
    assert resumed["text"] == whole["text"]
