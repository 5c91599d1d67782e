"""Memory that a model takes, against vLLM's own reading of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.weights.sizes import BYTES, cache_of
from tests.families.table import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_cache_is_vllms(paths: dict[str, Path], name: str) -> None:
    """Bytes of KV cache a token: layers × heads × their size, and which layers have a window."""
    from vllm.config import ModelConfig, ParallelConfig

    config, parallel = (
        ModelConfig(str(paths[name]), dtype="float32", skip_tokenizer_init=True),
        ParallelConfig(),
    )
    heads, size = config.get_num_kv_heads(parallel), config.get_head_size()
    found = cache_of(paths[name], "float32")
    assert found
    assert found.per_token == 2 * config.get_num_layers(parallel) * heads * size * BYTES["float32"]
    windowed = config.get_sliding_window()
    assert bool(found.windowed) == bool(windowed)
