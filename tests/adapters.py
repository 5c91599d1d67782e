"""LoRA adapters as PEFT writes them, without torch: of zeros, for what reads no more than their headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREFIX = "base_model.model."
CONFIG = {
    "base_model_name_or_path": "org/base",
    "bias": "none",
    "init_lora_weights": True,
    "lora_alpha": 16,
    "modules_to_save": None,
    "peft_type": "LORA",
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}
Q = "model.layers.0.self_attn.q_proj"
SHAPES = {Q: (8, 4)}  # of the modules that it changes: rows out, columns in


def write_safetensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A file of zeros, of one byte each."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + _product(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return file


def write_adapter(
    path: Path,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    rank: int = 2,
    more: Mapping[str, tuple[int, ...]] | None = None,
    **config: Any,
) -> Path:
    """more: further tensors, by their whole names."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(CONFIG | {"r": rank} | config))
    tensors: dict[str, tuple[int, ...]] = {}
    for name, (num_out, num_in) in shapes.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = rank, num_in
        tensors[f"{PREFIX}{name}.lora_B.weight"] = num_out, rank
    write_safetensors(path / "adapter_model.safetensors", tensors | dict(more or {}))
    return path


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
