"""Tiny random models of the families, written as the families publish theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tests.families.table import CONTEXT_SIZE, Family


def make(family: Family, path: Path) -> Path:
    """Writes the model's directory, the same every time, and returns it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = family.style()
    config = published_config(family, tokenizer)
    write(path / "config.json", config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms, else zeros and ones that nobody would miss
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(path)
    # Over what transformers writes: the same in its newest keys.
    write(path / "config.json", {"architectures": [type(model).__name__], **config})
    ends = [end if isinstance(end, int) else tokenizer.token_to_id(end) for end in family.eos]
    write(path / "generation_config.json", {"eos_token_id": ends if len(ends) > 1 else ends[0]})
    tokenizer.save(str(path / "tokenizer.json"))
    write(path / "tokenizer_config.json", published_tokenizer_config(family, tokenizer))
    return path


def published_config(family: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {
        name + "_id": tokenizer.token_to_id(token)
        for name, token in (family.tokens | family.model_tokens).items()
        if name in ("bos_token", "eos_token", "pad_token")
    }
    rows = -(-tokenizer.get_vocab_size() // family.padded) * family.padded
    common = {"model_type": family.model_type, "vocab_size": rows, "torch_dtype": "float32"}
    return common | ids | family.config


def published_tokenizer_config(family: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    added = {str(i): entry(token) for i, token in tokenizer.get_added_tokens_decoder().items()}
    common = {"clean_up_tokenization_spaces": False, "model_max_length": CONTEXT_SIZE}
    return {"added_tokens_decoder": added, **common, **family.tokens, **family.tokenizer_config}


def entry(token: AddedToken) -> dict[str, Any]:
    """An added token as tokenizer_config.json has it."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
