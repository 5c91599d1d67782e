"""Prompts computed in chunks, and requests that are thrown out of a full KV cache and come back, on a GPT-2
in float32 whose vocabulary is no multiple of 64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving import BESIDE_OTHERS, Client, serving

NAME = "tests/tiny-gpt2"
CHUNK = 64  # tokens in a step
NUM_BLOCKS, BLOCK = 8, 128 * 2 * 2 * 128 * 4  # of 128 tokens in two layers, keys and values, 128 floats each
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 2, "temperature": 1.5},
    {"seed": 3, "top_k": 40},
    {"seed": 4, "top_p": 0.5},
    {"seed": 5, "top_k": 100, "top_p": 0.9},
    {"seed": 6, "min_p": 0.5},
    {"seed": 7, "repetition_penalty": 1.5, "frequency_penalty": 0.7, "presence_penalty": 0.3},
    {"seed": 8, "logit_bias": {"260": 2.0, "300": -100}},
    {"seed": 9, "min_tokens": 20, "stop": [" the"]},
    {"seed": 10, "logprobs": 2, "echo": True},
    {"seed": 11, "n": 2},
    {"seed": 12, "best_of": 3},
    {"seed": 13, "ignore_eos": True, "stop_token_ids": [400]},
]


def ids(number: int, length: int) -> list[int]:
    return [(7919 * number + 31 * k) % 40_000 + 100 for k in range(length)]


@pytest.fixture(scope="module")
def client(smol_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = tmp_path_factory.mktemp("tiny-gpt2")
    call = f"make_tiny_gpt2(Path({str(path)!r}), Path({str(smol_path)!r}))"
    code = f"from pathlib import Path; from tests.tiny_gpt2 import *; {call}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    arguments = {"max_num_batched_tokens": CHUNK, "kv_cache_memory_bytes": NUM_BLOCKS * BLOCK}
    model = {
        "id": NAME,
        "path": str(path),
        "dtype": "float32",
        "max_model_len": 600,
        "max_num_seqs": 16,
        "engine_args": {"enforce_eager": True, **arguments},
        **BESIDE_OTHERS,
    }
    with serving(tmp_path_factory.mktemp("chunks"), {"models": [model]}) as server:
        url = server.url()
        server.wait_ready()
        with Client(url, "any") as client:
            yield client


def texts(client: Client, **fields: Any) -> list[str]:
    return [choice["text"] for choice in client.complete(model=NAME, max_tokens=30, **fields)["choices"]]


def test_a_bias_finds_its_token(client: Client) -> None:
    """In rows that are parts of longer ones, a bias of 100 is its own token's, whichever row it is."""
    for number in (1, 3):
        fields = {"logit_bias": {"7042": 100}, "prompt": [ids(k, 9) for k in range(number)]}
        assert texts(client, **fields) == [" Paris" * 30] * number


def test_chunks_change_no_draw(client: Client) -> None:
    """A seeded text is the same after a prompt in five chunks as after one whose beginning is known."""
    fields: dict[str, Any] = {"prompt": ids(50, 300), "seed": 42}
    in_chunks = texts(client, **fields)
    hits = client.metric(f'vllm:prefix_cache_hits_total{{engine="0",model_name="{NAME}"}}')
    assert texts(client, **fields) == in_chunks
    after = client.metric(f'vllm:prefix_cache_hits_total{{engine="0",model_name="{NAME}"}}')
    assert after - hits > 300 - CHUNK, "it was computed in chunks again"


def test_every_field_alone_and_in_company(client: Client) -> None:
    """Chunked prompts with every field, more than the cache holds, have at once the texts they have alone."""
    asked = [{"prompt": ids(number, 240)} | fields for number, fields in enumerate(FIELDS, start=100)]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda fields: texts(client, **fields), asked))
    assert client.metric(f'vllm:num_preemptions_total{{engine="0",model_name="{NAME}"}}') > 0
    assert [texts(client, **fields) for fields in asked] == together


def test_many_prompts_in_one_request(client: Client) -> None:
    """Twenty prompts of 150 ids with a seed are answered, each as by itself."""
    prompts = [ids(number, 150) for number in range(200, 220)]
    got = texts(client, prompt=prompts, seed=1)
    assert len(set(got)) == 20
    assert texts(client, prompt=prompts[0], seed=1) == got[:1]
