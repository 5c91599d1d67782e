"""A tokenizer out of several files, against transformers, which has made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from server.text.tokenizer import load_tokenizer
from tests.helpers import BOS, EOS, VOCAB_SIZE, byte_level, model_directory, sentencepiece

pytestmark = pytest.mark.engine

TEXTS = [
    "<|im_start|>user\nhello<|im_end|>  w<t>\n",
    "<s> a</s>  hello <e1> <e2>  x [PAD] <boi><img>",
    "hello <x>  hello <X>é <s>",
]


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


CHATML = {"0": token(BOS), "1": token(EOS), "265": token("<|im_start|>"), "266": token("<|im_end|>")}
ADDED = {"added_tokens_decoder": CHATML | {"267": token("<t>", special=False)}}
FLAGS = {
    "0": token(BOS, lstrip=True, special=False),
    "1": token(EOS, rstrip=True),
    "265": token("<x>", special=False, normalized=True),
}
NAMED = {"pad_token": "[PAD]", "boi_token": "<boi>", "extra_special_tokens": ["<e1>"], "unk_token": "hello"}
OLD_STYLE = {
    "bos_token": {"__type": "AddedToken", **token(BOS, lstrip=True)},
    "additional_special_tokens": ["<e1>", {"__type": "AddedToken", **token("<e2>", rstrip=True)}],
    "extra_special_tokens": {"image_token": "<img>"},
}
FILES: dict[str, dict[str, Any]] = {
    "added_tokens_decoder": {"tokenizer_config.json": ADDED | {"eos_token": "<|im_end|>", "bos_token": BOS}},
    "added_tokens": {
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
        "added_tokens.json": {"<|im_end|>": 266, "<|im_start|>": 265, "<t>": 267},
    },
    "special_tokens_map": {
        "tokenizer_config.json": {"eos_token": "nowhere"},
        "added_tokens.json": {"<|im_end|>": 266, "<|im_start|>": 265},
        "special_tokens_map.json": {
            "eos_token": token("<|im_end|>", rstrip=True),
            "additional_special_tokens": ["<|im_start|>", "<e1>"],
            "bos_token": BOS,
        },
    },
    "flags": {"tokenizer_config.json": {"added_tokens_decoder": FLAGS, "eos_token": EOS}},
    "ids that are taken": {"tokenizer_config.json": {"added_tokens_decoder": {"280": token("<x>")}}},
    "names alone": {"tokenizer_config.json": NAMED | {"eos_token": EOS}},
    "old style": {"tokenizer_config.json": OLD_STYLE | {"eos_token": EOS}},
    "special tokens split": {"tokenizer_config.json": {"eos_token": EOS, "split_special_tokens": True}},
    "BOS wanted": {"tokenizer_config.json": {"bos_token": BOS, "add_bos_token": True}},
}


@pytest.mark.parametrize("style", [byte_level, sentencepiece])
@pytest.mark.parametrize("files", FILES)
def test_files_are_merged_as_transformers_does(
    tmp_path: Path, files: str, style: Callable[[], tokenizers.Tokenizer]
) -> None:
    """The same ids, the same text with and without special tokens, the same ends."""
    from transformers import PreTrainedTokenizerFast

    model_directory(tmp_path, style(), bos=False)
    (tmp_path / "tokenizer_config.json").unlink()
    for file, content in FILES[files].items():
        (tmp_path / file).write_text(json.dumps(content))
    ours, theirs = load_tokenizer(tmp_path, VOCAB_SIZE), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ends = [] if theirs.eos_token_id is None else [theirs.eos_token_id]
    assert (ours.bos_id, list(ours.eos_ids)) == (theirs.bos_token_id, ends)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        for skip in (True, False):
            content = b"".join(ours.prompt_bytes(ids, skip_special=skip)).decode()
            assert content == theirs.decode(ids, skip_special_tokens=skip)
