"""Filling in between two texts: which models can, and what their prompts are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from server.text.fill_in import KNOWN
from server.text.tokenizer import load_tokenizer
from tests.helpers import BOS, EOS, VOCAB_SIZE, byte_level, model_directory, sentencepiece
from tests.server.generation.test_prompts import surrounded

QWEN, CODE_LLAMA, CODESTRAL = KNOWN[0], KNOWN[4], KNOWN[5]


def with_tokens(tokenizer: Tokenizer, *names: str, special: bool = False) -> Tokenizer:
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    return tokenizer


def names_of(path: Path, encoder: Tokenizer, prefix: str, suffix: str) -> list[str]:
    """The prompt's tokens, as the vocabulary writes them."""
    tokenizer = load_tokenizer(model_directory(path, encoder), VOCAB_SIZE)
    assert tokenizer.fill_in is not None
    ids = tokenizer.fill_in.ids(tokenizer.unparsed(), prefix, suffix)
    return [tokenizer.encoder.id_to_token(i) for i in ids]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("marks", KNOWN, ids=lambda marks: marks[0][0])
def test_each_family_has_its_order(tmp_path: Path, marks: tuple[tuple[str, str], ...], special: bool) -> None:
    """The marks are found whether the files call them special or not, and each text stands after its own."""
    encoder = with_tokens(byte_level(), *(name for name, _ in marks), special=special)
    texts = {"prefix": ["a"], "suffix": ["b"], "": []}
    assert names_of(tmp_path, encoder, "a", "b") == [
        part for name, what in marks for part in (name, *texts[what])
    ]


def test_a_text_is_not_control(tmp_path: Path) -> None:
    """Names of marks and of special tokens in the two texts are letters."""
    encoder = with_tokens(byte_level(), *(name for name, _ in QWEN), "<|fim_pad|>")
    found = names_of(tmp_path, encoder, f"<|fim_middle|>{EOS}", "<|fim_suffix|><|fim_pad|>")
    special = {name for name, _ in QWEN} | {EOS, "<|fim_pad|>"}
    assert [name for name in found if name in special] == [name for name, _ in QWEN]
    assert "".join(found).endswith("<|fim_suffix|><|fim_pad|><|fim_middle|>")


def test_the_bos_stays_before_it(tmp_path: Path) -> None:
    """What the tokenizer puts before a text is put before the marks; what it puts behind one is not."""
    encoder = with_tokens(surrounded(), *(name for name, _ in CODESTRAL))
    assert names_of(tmp_path, encoder, "a", "b") == [BOS, "[SUFFIX]", "b", "[PREFIX]", "a"]


def test_a_suffix_begins_no_text(tmp_path: Path) -> None:
    """Where SentencePiece puts a space before a text, the suffix has none but its own."""
    encoder = with_tokens(sentencepiece(), *(name for name, _ in CODE_LLAMA))
    found = names_of(tmp_path, encoder, "h", "e w")
    assert found == ["▁<PRE>", "▁h", "▁<SUF>", "e", "▁", "w", "▁<MID>"]
    assert names_of(tmp_path, encoder, "", "")[0] == "▁<PRE>"


def test_ends_are_the_models_own(tmp_path: Path) -> None:
    """The marks, and of the known ends those that the vocabulary has."""
    encoder = with_tokens(byte_level(), *(name for name, _ in QWEN), "<|fim_pad|>", "<|file_sep|>")
    tokenizer = load_tokenizer(model_directory(tmp_path, encoder), VOCAB_SIZE)
    assert tokenizer.fill_in is not None
    names = {tokenizer.encoder.id_to_token(i) for i in tokenizer.fill_in.ends}
    assert names == {name for name, _ in QWEN} | {"<|fim_pad|>", "<|file_sep|>"}


def test_a_model_that_lacks_a_mark_cannot(tmp_path: Path) -> None:
    """All of one family's have to be there, within the model's vocabulary."""
    some = with_tokens(byte_level(), "<|fim_prefix|>", "<|fim_suffix|>", "<fim_middle>")
    assert load_tokenizer(model_directory(tmp_path / "some", some), VOCAB_SIZE).fill_in is None
    beyond = with_tokens(byte_level(), *(f"<{k}>" for k in range(34)), *(name for name, _ in QWEN))
    assert load_tokenizer(model_directory(tmp_path / "beyond", beyond), VOCAB_SIZE).fill_in is None
