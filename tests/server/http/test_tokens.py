"""The routes of a tokenizer: what they say, whom they answer, and that nobody waits for a long text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access.keys import digest
from tests.helpers import BOS, CONTEXT_SIZE, EOS, Engine, app_of, model_directory, running, served
from tests.server.generation.test_prompts import surrounded

API = "/v3/openai"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(model_directory(tmp_path, surrounded()), Engine()))) as client:
        yield client


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
    return await client.post(path, json={"model": "m"} | fields)


async def test_tokens_of_a_text(client: httpx.AsyncClient) -> None:
    """Their number, the context, the ids, with those around the text; further things only if asked for."""
    reply = await post(client, f"{API}/tokenize", prompt="hello w")
    told = {"count": 4, "max_model_len": CONTEXT_SIZE, "tokens": [0, 261, 262, 1], "token_strs": None}
    assert reply.json() == told


async def test_names_and_places(client: httpx.AsyncClient) -> None:
    """As the vocabulary writes them; a token inside a character stands where that does."""
    asked = {"prompt": "hé 世", "return_token_strs": True, "return_token_offsets": True}
    told = (await post(client, f"{API}/tokenize", **asked, add_special_tokens=False)).json()
    assert told["token_strs"] == ["h", "Ã©", "Ġ", "ä", "¸", "ĸ"]
    assert told["token_offsets"] == [[0, 1], [1, 2], [2, 3], [3, 4], [3, 4], [3, 4]]
    around = (await post(client, f"{API}/tokenize", **asked | {"prompt": "h"})).json()
    assert around["token_offsets"] == [[0, 0], [0, 1], [1, 1]]


async def test_tokens_are_a_completions(client: httpx.AsyncClient) -> None:
    """What is said of special tokens holds here as there: one BOS, and names as text if that is asked for."""
    for prompt in ("", "hello", BOS, f"{BOS}w", EOS * 2, "x" * 30_000):
        for fields in ({}, {"add_special_tokens": False}, {"parse_special": False}):
            told = (await post(client, f"{API}/tokenize", prompt=prompt, **fields)).json()
            asked = {
                "prompt": prompt,
                "max_tokens": 0,
                "truncate_prompt_tokens": 60,
                "truncation_side": "right",
            }
            reply = (
                await post(client, f"{API}/completions", **asked, **fields, return_token_ids=True)
            ).json()
            used = reply["choices"][0]["prompt_token_ids"]
            assert used[:50] == (told["tokens"] or [0])[:50]


async def test_text_of_tokens(client: httpx.AsyncClient) -> None:
    """Special tokens by their names, half a character as U+FFFD, padding as nothing."""
    reply = await post(client, f"{API}/detokenize", tokens=[0, 261, 262, 299, 228, 1])
    assert reply.json() == {"prompt": f"{BOS}hello w\ufffd{EOS}"}
    assert (await post(client, f"{API}/detokenize", tokens=[])).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("tokenize", {}, "prompt is required"),
        ("tokenize", {"prompt": ["a"]}, "prompt (current value: ["),
        ("tokenize", {"prompt": "a", "add_special_tokens": 1}, "must be true or false"),
        ("detokenize", {}, "tokens is required"),
        ("detokenize", {"tokens": [1, -1]}, "must be an array of token ids"),
        ("detokenize", {"tokens": [300]}, "tokens (current value: 300) must be between 0 and 299"),
    ],
)
async def test_what_is_wrong_is_said(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], words: str
) -> None:
    """A 400 that names the field and its rule."""
    reply = await post(client, f"{API}/{path}", **fields)
    assert reply.status_code == 400
    assert words in reply.json()["message"]


async def test_where_vllm_has_them(client: httpx.AsyncClient) -> None:
    """Under each prefix and under none."""
    for prefix in ("/v1", "/openai", ""):
        assert (await post(client, f"{prefix}/tokenize", prompt="w")).json()["count"] == 3
        assert (await post(client, f"{prefix}/detokenize", tokens=[88])).json() == {"prompt": "w"}


async def test_they_are_a_keys(tmp_path: Path) -> None:
    """A key, its models and its limits are asked for as with a completion."""
    model = served(model_directory(tmp_path, surrounded()), Engine(), allowed_keys=["alice"])
    keys = tmp_path / "keys"
    keys.write_text(f"alice {digest('a')} requests_per_minute=1\nbob {digest('b')}\n")
    async with running(app_of(model, api_keys_file=keys)) as client:
        statuses = []
        for key in ("", "b", "a", "a"):
            headers = {"authorization": f"Bearer {key}"}
            reply = await client.post("/tokenize", json={"model": "m", "prompt": "w"}, headers=headers)
            statuses.append(reply.status_code)
    assert statuses == [401, 403, 200, 429]


async def test_what_a_model_knows(client: httpx.AsyncClient) -> None:
    """The model's own entry has its vocabulary and special ids; the list is as documented."""
    entry = (await client.get(f"{API}/models/m")).json()
    (listed,) = (await client.get(f"{API}/models")).json()["data"]
    assert {name: value for name, value in entry.items() if name not in listed} == {
        "vocab_size": 300,
        "bos_token_id": 0,
        "eos_token_ids": [1],
        "special_tokens": {BOS: 0, EOS: 1},
        "adapters": [],
    }
