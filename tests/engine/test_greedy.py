"""Greedy texts on this engine's device against those of the CPU, and which of vLLM's model runners it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.text.tokenizer import load_tokenizer
from tests.engine.conftest import Started
from tests.engine.greedy import FILE, LEAD, NUM_TOKENS, PROMPTS, greedy
from tests.serving import ON_GPU, SMOL, TINY, VOCAB_SIZE, Client

pytestmark = pytest.mark.engine

GOLDEN: dict[str, Any] = json.loads(FILE.read_text())
RUNNER = "V2" if ON_GPU else "V1"


@pytest.mark.parametrize("model", [SMOL, TINY])
def test_the_runner_is_the_devices(started: Started, model: str) -> None:
    """vLLM's V2 model runner on a GPU, V1 on the CPU; the log says which."""
    assert f"model {model}: it runs on vLLM's {RUNNER} model runner" in started.server.said()


@pytest.mark.parametrize("text", GOLDEN["texts"], ids=lambda text: text["prompt"][:12])
def test_greedy_text_is_the_cpus(client: Client, text: dict[str, Any]) -> None:
    """Up to where the CPU's two likeliest tokens are closer than rounding, which the file states."""
    ids, _ = greedy(client, text["prompt"])
    assert ids[: text["equal_until"]] == text["ids"][: text["equal_until"]]


@pytest.mark.parametrize("text", GOLDEN["texts"], ids=lambda text: text["prompt"][:12])
def test_likeliest_tokens_of_the_text_are_the_cpus(
    client: Client, smol_path: Path, text: dict[str, Any]
) -> None:
    """Beyond that point too, given the CPU's text so far, wherever its lead is clear."""
    tokenizer = load_tokenizer(smol_path, VOCAB_SIZE)
    prompt = tokenizer.encode(text["prompt"])
    asked: dict[str, Any] = {"prompt": prompt + text["ids"], "echo": True, "logprobs": 1, "max_tokens": 0}
    tops = client.choice(**asked)["logprobs"]["top_logprobs"][len(prompt) :]
    for token_id, lead, top in zip(text["ids"], text["leads"], tops, strict=True):
        if lead >= LEAD:
            assert max(top, key=lambda name: top[name]) == tokenizer.names[token_id]


def test_the_golden_file_is_of_these_prompts() -> None:
    """Whoever changes a prompt or the lead makes it anew; and it compares most of what it could."""
    assert [text["prompt"] for text in GOLDEN["texts"]] == PROMPTS
    assert {len(text["ids"]) for text in GOLDEN["texts"]} == {NUM_TOKENS}
    assert GOLDEN["lead"] == LEAD
