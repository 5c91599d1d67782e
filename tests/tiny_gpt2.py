"""A random GPT-2 of two small layers with the built-in model's tokenizer, and one token more than that: its
vocabulary is no multiple of 64."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.tiny_llama import TOKENIZER_FILES

VOCAB_SIZE = 49152 + 1


def make_tiny_gpt2(path: Path, tokenizer_from: Path) -> Path:
    """Writes the model to `path` in float32, the same weights every time, and returns it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=1024,
        n_embd=128,
        n_layer=2,
        n_head=2,  # heads of 64, which every attention kernel supports
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(path)
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copy(tokenizer_from / name, path / name)
    return path
