"""A random Phi-3 of two small layers with LongRoPE: other factors for its positions beyond a length."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.tiny_llama import TOKENIZER_FILES

SHORT_CONTEXT, LONG_CONTEXT = 256, 1024


def make_tiny_phi3(path: Path, tokenizer_from: Path) -> Path:
    """Writes the model to `path`, the same weights every time, and returns it."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=49152,  # the tokenizer's
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LONG_CONTEXT,
        original_max_position_embeddings=SHORT_CONTEXT,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + k / 32 for k in range(32)],
            "long_factor": [4.0 + k for k in range(32)],
            "original_max_position_embeddings": SHORT_CONTEXT,
        },
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        sliding_window=None,
    )
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config)
    with torch.no_grad():  # attention that matters: of itself the layers' weights are too small
        for parameter in model.model.layers.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    model.save_pretrained(path)
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copy(tokenizer_from / name, path / name)
    return path
