"""How much memory a model needs for its weights and for the KV cache of a sequence, from its files.

The rules are vLLM's (model_arch_config_convertor and kv_cache_interface of 0.32.0). vLLM measures at the
start what the computation itself needs; `WORK_BYTES` allows for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.weights.architecture import positive, read_config, text_part
from server.weights.checkpoint import Checkpoint

GIB = 2**30
WORK_BYTES = 2 * GIB  # of a GPU: CUDA itself, graphs, activations of a step. A guess: large models need more.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_BYTES = {
    name: size
    for size, names in {
        8: ("F64", "I64", "U64"),
        4: ("F32", "I32", "U32"),
        2: ("F16", "BF16", "I16", "U16"),
        1: ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"),
        0.5: ("F4",),
    }.items()
    for name in names
}
# Weights of these types are converted to the type in which the model runs
IN_FULL = {"F64", "F32", "F16", "BF16"}

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
HIDDEN = ("hidden_size", "n_embd", "d_model")
FULL = ("full_attention", "attention", "global_attention")
WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
LATENT = "kv_lora_rank"  # a model with MLA keeps one vector per token and layer
EVERY_SECOND, EVERY_SIXTH = {"gemma2": 2}, {"gemma3": 6, "gemma3_text": 6}  # the layers without a window
BATCH = 8192  # tokens of a step, for which layers with a window need room too: vLLM's largest default


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes of KV cache per token, of all layers together. windowed: of layers that only see the last
    `window` tokens, and forget older ones."""

    full: int
    windowed: int = 0
    window: int = 0

    @property
    def per_token(self) -> int:
        """While no layer forgets tokens."""
        return self.full + self.windowed

    def sequence(self, num_tokens: int) -> int:
        """Bytes for a sequence of this length."""
        return self.full * num_tokens + self.windowed * min(num_tokens, self.window - 1 + BATCH)

    def longest(self, num_bytes: float) -> int:
        """The length of the longest sequence that fits."""
        kept = min(self.window - 1 + BATCH, int(num_bytes // self.per_token))
        rest = num_bytes - kept * self.per_token
        return (
            kept if kept < self.window - 1 + BATCH else kept + int(rest // self.full) if self.full else kept
        )


def bytes_of_weights(checkpoint: Checkpoint, dtype: str) -> int:
    """Bytes in memory. dtype: as from running_dtype."""
    return int(
        sum(
            math.prod(tensor.shape)
            * (BYTES[dtype] if tensor.dtype in IN_FULL else STORED_BYTES.get(tensor.dtype, 1))
            for tensor in checkpoint.tensors.values()
        )
    )


def running_dtype(directory: Path, chosen: str) -> str:
    """The type in which the model runs: the chosen one; for `auto` that of config.json, but
    bfloat16 for float32."""
    if chosen != "auto":
        return chosen
    config = read_config(directory)
    stored = text_part(config).get("dtype") or text_part(config).get("torch_dtype") or "float32"
    return stored if stored in ("bfloat16", "float16") else "bfloat16"


def cache_of(
    directory: Path, dtype: str, kv_cache_dtype: str = "auto", shares: int = 1, stages: int = 1
) -> Cache | None:
    """The KV cache of a model on each of its GPUs; None: config.json does not say, or layers keep another
    kind of state. kv_cache_dtype: vLLM's argument. shares: tensor_parallel_size. stages:
    pipeline_parallel_size."""
    part = text_part(read_config(directory))
    num_layers, heads, hidden = (_first(part, names) for names in (LAYERS, HEADS, HIDDEN))
    if num_layers is None or heads is None or hidden is None:
        return None
    num_layers = -(-num_layers // stages)
    width = 1 if kv_cache_dtype.startswith("fp8") else BYTES[dtype]
    if rank := positive(part.get(LATENT)):
        return Cache(num_layers * (rank + int(part.get("qk_rope_head_dim") or 0)) * width)
    kv_heads = 1 if part.get("multi_query") is True else _first(part, KV_HEADS) or heads
    layer = 2 * max(1, kv_heads // shares) * (positive(part.get("head_dim")) or hidden // heads) * width
    kinds = _kinds(part, num_layers)
    if kinds is None:
        return None
    num_windowed = sum(window is not None for window in kinds)
    window = max((window for window in kinds if window), default=0)
    return Cache((num_layers - num_windowed) * layer, num_windowed * layer, window)


def heads_of(directory: Path) -> int | None:
    """Attention heads, which tensor_parallel_size must divide."""
    return _first(text_part(read_config(directory)), HEADS)


def _kinds(part: dict[str, Any], num_layers: int) -> list[int | None] | None:
    """The window of each layer in tokens; None in the list: the layer sees everything."""
    window, model_type = positive(part.get("sliding_window")), str(part.get("model_type"))
    kinds = part.get("layer_types")
    if isinstance(kinds, list):
        if not {*kinds} <= {*FULL, *WINDOWED}:
            return None
        reach = {kind: positive(part.get(key)) for kind, key in WINDOWED.items()}
        return [reach.get(kind) for kind in kinds[:num_layers]]
    if any(key in part for key in ("ssm_state_size", "state_size", "mamba_d_state", "layers_block_type")):
        return None
    if window is None or part.get("use_sliding_window") is False:
        return [None] * num_layers
    every = positive(part.get("sliding_window_pattern")) or (EVERY_SECOND | EVERY_SIXTH).get(model_type)
    if every is None:
        return [window] * num_layers
    return [None if (number + 1) % every == 0 else window for number in range(num_layers)]


def _first(part: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if (value := positive(part.get(name)))), None)
