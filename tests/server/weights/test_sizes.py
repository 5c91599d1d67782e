"""What a model takes of memory, by its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.weights.architecture import Architecture
from server.weights.checkpoint import Checkpoint, Tensor
from server.weights.sizes import BATCH, Cache, bytes_of_weights, cache_of, running_dtype

LLAMA = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512, "num_key_value_heads": 2}
LAYER = 2 * 2 * 64 * 2  # keys and values of two heads of 64, two bytes each


def cache(tmp_path: Path, config: dict[str, Any], *more: Any) -> Cache | None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return cache_of(tmp_path, "bfloat16", *more)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, Cache(4 * LAYER)),
        (LLAMA | {"head_dim": 128}, Cache(8 * LAYER)),
        ({"n_layer": 4, "n_head": 2, "n_embd": 128}, Cache(4 * LAYER)),  # GPT-2: no heads are shared
        (LLAMA | {"multi_query": True}, Cache(2 * LAYER)),  # Falcon, StarCoder
        (LLAMA | {"kv_lora_rank": 448, "qk_rope_head_dim": 64}, Cache(4 * 512 * 2)),  # DeepSeek's latent
        (LLAMA | {"sliding_window": 100}, Cache(0, 4 * LAYER, 100)),  # Mistral
        (LLAMA | {"sliding_window": 100, "use_sliding_window": False}, Cache(4 * LAYER)),  # Qwen
        (LLAMA | {"sliding_window": 9, "model_type": "gemma2"}, Cache(2 * LAYER, 2 * LAYER, 9)),
        (
            LLAMA | {"sliding_window": 9, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
            Cache(LAYER, 3 * LAYER, 9),
        ),
        ({"text_config": LLAMA}, Cache(4 * LAYER)),
        (LLAMA | {"layer_types": ["linear_attention"] * 4}, None),
        (LLAMA | {"mamba_d_state": 16}, None),
        ({"vocab_size": 10}, None),
    ],
)
def test_cache_by_architecture(tmp_path: Path, config: dict[str, Any], expected: Cache | None) -> None:
    """Of each kind of attention that config.json can tell."""
    assert cache(tmp_path, config) == expected


def test_cache_on_each_gpu(tmp_path: Path) -> None:
    """Heads are shared out, down to one; layers in groups; an 8-bit cache is half of a 16-bit one."""
    assert cache(tmp_path, LLAMA, "auto", 2, 1) == Cache(2 * LAYER)
    assert cache(tmp_path, LLAMA, "auto", 4, 1) == Cache(2 * LAYER)
    assert cache(tmp_path, LLAMA, "auto", 1, 2) == Cache(2 * LAYER)
    assert cache(tmp_path, LLAMA, "fp8_e4m3") == Cache(2 * LAYER)


@pytest.mark.parametrize("held", [Cache(8), Cache(8, 24, 100), Cache(0, 32, 100)])
@pytest.mark.parametrize("num_tokens", [1, 5000, 8291, 8292, 100_000])
def test_longest_is_the_inverse(held: Cache, num_tokens: int) -> None:
    """Of the room that a sequence takes; with windows alone, what fills them."""
    longest = held.longest(held.sequence(num_tokens))
    assert longest == (num_tokens if held.full else min(num_tokens, held.window - 1 + BATCH))


def test_weights_in_the_type_that_runs(tmp_path: Path) -> None:
    """Floating weights have the width they run in, quantized ones the one they are stored in."""
    stored = {"F32": [3, 5], "F16": [2], "I32": [7], "F8_E4M3": [11]}
    tensors = {name: Tensor(name, (*shape,)) for name, shape in stored.items()}
    found = Checkpoint(tmp_path, Architecture((), None, 1), (), 0, tensors)
    assert bytes_of_weights(found, "bfloat16") == 2 * 17 + 4 * 7 + 11
    assert bytes_of_weights(found, "float32") == 4 * 17 + 4 * 7 + 11


@pytest.mark.parametrize(
    ("stored", "chosen", "runs"),
    [
        ("float16", "auto", "float16"),
        ("float32", "auto", "bfloat16"),
        (None, "auto", "bfloat16"),
        ("float16", "float32", "float32"),
    ],
)
def test_type_that_runs(tmp_path: Path, stored: str | None, chosen: str, runs: str) -> None:
    """As `dtype` of models.yaml says."""
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": stored}))
    assert running_dtype(tmp_path, chosen) == runs
