from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from server.text.encoding import Reading
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import BOS, EOS, VOCAB_SIZE, byte_level, model_directory, sentencepiece

# Where the text of each token of a prompt begins.

PIECES = [
    "he",
    "hello",
    " w",
    "or",
    " ",
    "  ",
    "\n",
    "é",
    "e\u0301",
    "世",
    "😀",
    "▁",
    BOS,
    EOS,
    "<x>",
    "ﬁ",
    "\x00",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"])).map("".join)


def trimming(post_processor: processors.PostProcessor) -> tokenizers.Tokenizer:
    """A tokenizer that has no leading spaces in its spans."""
    tokenizer = byte_level()
    tokenizer.post_processor = post_processor
    return tokenizer


def composing(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<x>", lstrip=True, rstrip=True, normalized=False)])
    return tokenizer


def surrounded(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    template = processors.TemplateProcessing(f"{BOS} {BOS} $A {EOS}", special_tokens=ids)
    trim = processors.ByteLevel(trim_offsets=True)
    tokenizer.post_processor = processors.Sequence([trim, template])
    return tokenizer


def prefixed() -> tokenizers.Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


ROBERTA = ((EOS, 1), (BOS, 0))
STYLES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level with a space in front": prefixed,
    "spans without spaces": lambda: trimming(processors.ByteLevel(trim_offsets=True)),
    "RoBERTa": lambda: trimming(processors.RobertaProcessing(*ROBERTA, trim_offsets=True)),
    "BOS and EOS": lambda: surrounded(byte_level()),
    "sentencepiece": sentencepiece,
    "sentencepiece with BOS and EOS": lambda: surrounded(sentencepiece()),
    "metaspace": lambda: sentencepiece(metaspace=True),
}


def load(folder: Path, encoder: tokenizers.Tokenizer) -> Tokenizer:
    tokenizer = load_tokenizer(model_directory(folder, encoder), VOCAB_SIZE)
    tokenizer.fast.load()
    return tokenizer


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(tmp_path_factory.mktemp("style"), STYLES[request.param]())


def starts(tokenizer: Tokenizer, text: str) -> list[int]:
    (encoded,) = tokenizer.encode_all([text], Reading(with_starts=True))
    assert [encoded] == tokenizer.read_with_library([text], Reading(with_starts=True))
    assert encoded.ids == tokenizer.encode(text)
    assert encoded.starts is not None
    assert len(encoded.starts) == len(encoded.ids)
    assert encoded.starts == sorted(encoded.starts)
    assert all(0 <= start <= len(text) for start in encoded.starts)
    return encoded.starts


def is_at(token: bytes, text: str, start: int) -> bool:
    """Whether a token's bytes begin in the character at that place. To SentencePiece ▁ is a space, and the
    space that some put in front of a text is not in it."""
    rests = [rest[start:] for rest in (text, text.replace("▁", " "))]
    return any(
        rest.encode()[skip:].startswith(part)
        for rest in rests
        for skip in range(len(rest[:1].encode()) or 1)
        for part in (token, token.removeprefix(b" "))
    )


@given(text=TEXT)
def test_tokens_are_where_they_begin(tokenizer: Tokenizer, text: str) -> None:
    """The text at a token's place begins with the token, leading space included; places never fall."""
    mask = tokenizer.encoder.encode(text).special_tokens_mask
    for token_id, start, is_added in zip(tokenizer.encode(text), starts(tokenizer, text), mask, strict=True):
        if is_added:
            assert start in (0, len(text))
        else:
            assert is_at(tokenizer.table[token_id], text, start)


@pytest.fixture(scope="module", params=[byte_level, sentencepiece])
def composing_tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    return load(tmp_path_factory.mktemp("style"), composing(request.param()))


@given(text=TEXT)
def test_places_of_a_text_that_is_normalized(composing_tokenizer: Tokenizer, text: str) -> None:
    """Where a normalizer has changed the text, places are still within it and never fall."""
    starts(composing_tokenizer, text)


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("spans without spaces", "  w  hello", [0, 1, 3, 4, 5]),
        ("RoBERTa", "he w", [0, 0, 2, 4]),
        ("BOS and EOS", " w or", [0, 0, 0, 2, 3, 5]),
        ("byte-level with a space in front", "w or", [0, 1, 2]),
        ("sentencepiece", " le", [0, 0, 1, 2]),
        ("sentencepiece", "he</s> he", [0, 2, 6, 6]),
        ("sentencepiece", "é😀", [0, 0, 1, 1, 1, 1]),
        ("byte-level", "e😀", [0, 1, 1, 1, 1]),
    ],
)
def test_places(tmp_path: Path, style: str, text: str, expected: list[int]) -> None:
    """Of prefix spaces, bytes, special tokens, and spans that leave spaces out."""
    assert starts(load(tmp_path, STYLES[style]()), text) == expected
