"""A random Llama of two small layers with the built-in model's tokenizer: an engine's work, and no sense.

python tests/tiny_llama.py OUT_DIR
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def make_tiny_llama(path: Path, tokenizer_from: Path, *, broken_id: int | None = None) -> Path:
    """Writes the model to `path`, the same weights every time, and returns it.

    broken_id: a token whose embedding is NaN, so that a prompt with it makes nothing but NaN.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,  # the tokenizer's
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,  # heads of 64, which every attention kernel supports
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=broken_id is None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    if broken_id is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight[broken_id] = torch.nan
    model.save_pretrained(path)
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copy(tokenizer_from / name, path / name)
    return path


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from server.weights.builtin import prepare

    make_tiny_llama(Path(sys.argv[1]), prepare("smollm2-135m-instruct", lambda text, _: print(text)))
