"""What fits into a GPU or a machine, and what is said where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.config.model import ModelSettings
from server.engine.fit import Fit, fit, in_words, shared_out, undivided
from server.errors import ConfigurationError
from server.weights.checkpoint import check_checkpoint
from server.weights.sizes import GIB, WORK_BYTES
from tests.server.weights.test_sizes import LAYER, LLAMA

NUM_WEIGHTS = 1000
CONTEXT_SIZE = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    # With a length, or transformers would be asked for it in a process of its own, which takes seconds.
    more = {"vocab_size": 10, "max_position_embeddings": CONTEXT_SIZE, "torch_dtype": "bfloat16"}
    config = LLAMA | more
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    size = 2 * NUM_WEIGHTS
    entry = {"w": {"dtype": "BF16", "shape": [NUM_WEIGHTS], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(size)
    (tmp_path / "model.safetensors").write_bytes(content)
    return tmp_path


def found(directory: Path, memory: float | None, **settings: Any) -> Fit:
    model = ModelSettings(id="a", path=directory, **settings)
    return fit(model, check_checkpoint(directory), CONTEXT_SIZE, memory)


def test_room_on_a_gpu(directory: Path) -> None:
    """Of its share of the GPU, what weights and computation leave."""
    one = found(directory, 10 * GIB, gpu_memory_utilization=0.5)
    assert one.weights == 2 * NUM_WEIGHTS
    assert one.room == 5 * GIB - one.weights - WORK_BYTES
    assert one.problem() == ""
    assert "sequences of 4,096" in one.sentence()


def test_room_on_the_cpu(directory: Path) -> None:
    """kv_cache_gib is the cache, unless vLLM's own argument says otherwise."""
    assert found(directory, None, kv_cache_gib=2.0).room == 2 * GIB
    assert found(directory, None, engine_args={"kv_cache_memory_bytes": 4096}).room == 4096


def test_context_that_fits_is_said(directory: Path) -> None:
    """Where a sequence of all the context has no room, the message has the length that has."""
    room = 4 * LAYER * 1000  # for a thousand tokens
    one = found(directory, None, engine_args={"kv_cache_memory_bytes": room})
    assert "Set max_model_len: 1000." in one.problem()
    assert one.with_context(1000).problem() == ""
    assert one.with_context(1001).problem() != ""


def test_weights_that_do_not_fit(directory: Path) -> None:
    """Before the first byte is read, with what can be done."""
    assert "tensor_parallel_size" in found(directory, 1000).problem()
    assert "more GPUs" in found(directory, 100, tensor_parallel_size=2).problem()


def test_heads_that_cannot_be_shared_out(directory: Path) -> None:
    """vLLM would say so after its import and a process for each GPU."""
    checkpoint = check_checkpoint(directory)
    model = ModelSettings(id="a", path=directory, tensor_parallel_size=3)
    assert "8 attention heads" in undivided(model, checkpoint)
    assert undivided(model.model_copy(update={"tensor_parallel_size": 4}), checkpoint) == ""


def test_models_that_share_a_gpu(directory: Path) -> None:
    """Shares of one GPU add up; models with GPUs of their own do not."""

    def model(**settings: Any) -> ModelSettings:
        return ModelSettings(id="a", path=directory, **settings)

    assert shared_out([model(gpu_memory_utilization=0.5)] * 2, None) == "models take at most 100% of a GPU"
    assert "90%" in shared_out([model(devices=[0]), model(devices=[1])], None)
    with pytest.raises(ConfigurationError, match=r"models on GPU 0 take 1\.80"):
        shared_out([model(), model()], None)


def test_models_that_share_a_machine(directory: Path) -> None:
    """Weights and KV caches of all, on the CPU."""
    models = [ModelSettings(id="a", path=directory, kv_cache_gib=2.0)] * 2
    assert shared_out(models, 9 * GIB) == "all engines together take 8.0 GiB of 9.0 GiB"
    with pytest.raises(ConfigurationError, match="lower kv_cache_gib"):
        shared_out(models, 7 * GIB)


def test_models_that_come_and_go(directory: Path) -> None:
    """Of those that are loaded on demand one has to fit beside those that stay."""
    comes = ModelSettings(id="a", path=directory, load="on_demand", gpu_memory_utilization=0.6)
    stays = ModelSettings(id="b", path=directory, gpu_memory_utilization=0.3)
    assert "90%" in shared_out([comes, comes, stays], None)
    assert shared_out([comes] * 3, 4 * GIB) == "all engines together take 3.0 GiB of 4.0 GiB"
    with pytest.raises(ConfigurationError, match=r"take 1\.20"):
        shared_out([comes, stays, stays], None)


@pytest.mark.parametrize(
    ("size", "words"), [(1536, "1.5 KiB"), (3 * 2**20, "3.0 MiB"), (2.5 * GIB, "2.5 GiB"), (0, "0.0 KiB")]
)
def test_sizes_in_words(size: float, words: str) -> None:
    """In the largest unit that they fill."""
    assert in_words(size) == words
