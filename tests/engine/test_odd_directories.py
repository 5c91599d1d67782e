"""A model directory with everything that has led other servers astray, on one engine with little memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from safetensors.torch import load_file, save_file

from tests.engine.reference import Reference
from tests.serving import CAPITAL, CAPITAL_IDS, Client, serving, tiny_model

pytestmark = pytest.mark.engine

ODD = "模型/ünïcode-☂"
KV_BYTES = 2**20  # 1,024 tokens of this model, which is four of the longest requests
LONG = {"model": ODD, "max_tokens": 180, "ignore_eos": True, "temperature": 0, "logprobs": 1}


def make_odd(path: Path, tiny: Path) -> Path:
    """The tiny model under a path that is not ASCII, with files that say something else beside it."""
    shutil.copytree(tiny, path)
    # Sampling defaults that nobody asked for.
    defaults = {"temperature": 0.01, "top_k": 1, "repetition_penalty": 2.0, "eos_token_id": 2}
    (path / "generation_config.json").write_text(json.dumps(defaults))
    # A beginning that differs from the tokenizer's.
    config = json.loads((path / "config.json").read_text()) | {"bos_token_id": 7}
    (path / "config.json").write_text(json.dumps(config))
    # Mistral's own format, with other weights; Hugging Face's has an index, as in Mistral's directories.
    (path / "params.json").write_text(json.dumps({"dim": 128, "n_layers": 2, "vocab_size": 49152}))
    weights = load_file(path / "model.safetensors")
    save_file({name: 0 * tensor for name, tensor in weights.items()}, path / "consolidated.safetensors")
    shard = (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard.name)}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


@pytest.fixture(scope="module")
def odd_path(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_odd(tmp_path_factory.mktemp("odd") / "modèle ☂ 模型", tiny_path)


@pytest.fixture(scope="module")
def odd(odd_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    model = tiny_model(odd_path, id=ODD)
    model["engine_args"] = {"enforce_eager": True, "kv_cache_memory_bytes": KV_BYTES}
    folder = tmp_path_factory.mktemp("odd-server")
    with serving(folder, {"models": [model]}) as server:
        server.wait_ready()
        with Client(server.url(), "any") as client:
            yield client


def test_a_name_of_any_script(odd: Client) -> None:
    """The model is listed, found and named in replies as it is written, whatever its path is called."""
    assert odd.get(f"/v1/models/{quote(ODD)}").json()["id"] == ODD
    assert odd.complete(model=ODD, max_tokens=1)["model"] == ODD


def test_weights_are_hugging_faces(odd: Client, odd_path: Path) -> None:
    """Of two formats side by side, the one that config.json describes is loaded."""
    asked = {"model": ODD, "prompt": CAPITAL_IDS, "echo": True, "logprobs": 1, "max_tokens": 0}
    measured = odd.choice(**asked)["logprobs"]["token_logprobs"][1:]
    assert measured == pytest.approx(Reference(odd_path).scores(CAPITAL_IDS), abs=1e-4)


def test_sampling_defaults_are_the_contracts(odd: Client) -> None:
    """generation_config.json decides nothing about a draw: seeds differ, as with top_k 1 they would not."""
    texts = {odd.choice(model=ODD, seed=seed, max_tokens=8)["text"] for seed in range(3)}
    assert len(texts) == 3


def test_the_tokenizers_own_beginning(odd: Client) -> None:
    """An empty prompt is the token that the tokenizer calls its BOS, not config.json's."""
    choice = odd.choice(model=ODD, prompt="", echo=True, logprobs=1, max_tokens=1)
    assert choice["logprobs"]["tokens"][0] == "<|im_start|>"


@pytest.mark.long
def test_preempted_requests_are_whole(odd: Client) -> None:
    """Requests that the engine puts off for lack of memory, prompt log-probabilities and all, are what they
    are alone."""
    prompts = [f"{CAPITAL} {number}" for number in range(8)]

    def ask(prompt: str) -> dict[str, Any]:
        return odd.choice(**LONG, prompt=prompt, echo=True)

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(ask, prompts))
    assert odd.metric(f'vllm:num_preemptions_total{{engine="0",model_name="{ODD}"}}') > 0
    for one, other in zip(alone, together, strict=True):
        assert one["text"] == other["text"]
        for name in ("tokens", "text_offset"):
            assert one["logprobs"][name] == other["logprobs"][name]
        assert one["logprobs"]["token_logprobs"][1:] == pytest.approx(
            other["logprobs"]["token_logprobs"][1:], abs=1e-4
        )
