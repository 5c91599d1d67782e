"""Zeroes each block of the KV cache on the CPU before a request gets it.

vLLM's CPU attention (0.32.0) multiplies what a block has beyond the end of a sequence by zero, and NaN times
zero is NaN: a request that made NaN would also make those NaN that get its blocks later.
"""

from __future__ import annotations

from typing import Any


def zero_new_blocks() -> None:
    """Patch vLLM, before an engine is made. It can zero blocks itself, but does so only for models with Mamba
    layers, and not blocks of a sliding window."""
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)
    CPUModelRunner._zero_block_ids = zero


def zero(runner: Any, block_ids: list[int]) -> None:
    """Zero these blocks in every attention layer of a model runner."""
    from torch import Tensor
    from vllm.v1.kv_cache_interface import AttentionSpec

    layers = runner.compilation_config.static_forward_context
    for group in runner.kv_cache_config.kv_cache_groups:
        if not isinstance(group.kv_cache_spec, AttentionSpec):
            continue
        for name in group.layer_names:
            if name in layers and isinstance(cache := layers[name].kv_cache, Tensor):
                for block_id in block_ids:  # a list of them would be copied and scattered
                    cache[block_id].zero_()
