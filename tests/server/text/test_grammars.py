"""Grammars on a model's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from server.text.grammars import Kind, source_of
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import VOCAB_SIZE, byte_level, model_directory, sentencepiece

STYLES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": lambda: sentencepiece(metaspace=True),
}


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("style")
    return load_tokenizer(model_directory(path, STYLES[request.param]()), VOCAB_SIZE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Whose tokens are the text's bytes, none before them."""
    return load_tokenizer(model_directory(tmp_path_factory.mktemp("plain"), byte_level()), VOCAB_SIZE)


def allowed(tokenizer: Tokenizer, source: str, said: list[int]) -> set[int]:
    """The ids that may come next."""
    bits = np.frombuffer(tokenizer.grammars.begun(source, said).compute_bitmask(), np.uint8)
    mask = np.unpackbits(bits, bitorder="little")[:VOCAB_SIZE]
    return set(np.flatnonzero(mask).tolist())


def test_tokens_are_by_their_bytes(tokenizer: Tokenizer) -> None:
    """What may come is what the text allows, cut as the vocabulary cuts it; padding and special
    tokens never may."""
    source = source_of("choice", '["é", "hello"]')
    texts = [tokenizer.table[token_id] for token_id in allowed(tokenizer, source, [])]
    assert {b"\xc3", "é".encode(), b"h"} <= set(texts)
    assert all(text and ("é".encode().startswith(text) or b"hello".startswith(text)) for text in texts)


def test_a_text_ends_with_its_grammar(tokenizer: Tokenizer) -> None:
    """Then the model's end of a text may come, and nothing else; before, it may not."""
    said = [next(i for i, part in enumerate(tokenizer.table) if part == text) for text in (b"l", b"l")]
    source = source_of("regex", "l{2}")
    assert tokenizer.eos_ids[0] not in allowed(tokenizer, source, said[:1])
    assert allowed(tokenizer, source, said) == set(tokenizer.eos_ids)


def test_what_was_said_must_be_of_it(tokenizer: Tokenizer) -> None:
    """A grammar does not go on after a text that is none of its own."""
    with pytest.raises(ValueError, match=r"\S"):
        tokenizer.grammars.begun(source_of("regex", "x"), [5, 6])


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json", '{"type": "no such"}', "Invalid type: no such"),
        ("regex", "([", "unclosed character class"),
        ("grammar", "start: nothing", "unknown name"),
    ],
)
def test_problems_are_said(tokenizer: Tokenizer, kind: Kind, text: str, said: str) -> None:
    """In one line."""
    problem = tokenizer.grammars.problem(source_of(kind, text))
    assert said in problem
    assert "\n" not in problem


def test_what_cannot_be_put_as_a_grammar() -> None:
    """llama.cpp's notation is translated; what it does not define is a ValueError."""
    assert "start" in source_of("grammar", 'root ::= "a" root | "b"')
    with pytest.raises(ValueError, match="'nothing' not found"):
        source_of("grammar", 'root ::= "a" nothing')


def test_a_model_that_ends_no_text_has_none(tmp_path: Path) -> None:
    """A text of it would never be over."""
    directory = model_directory(tmp_path, byte_level())
    (directory / "tokenizer_config.json").write_text("{}")
    grammars = load_tokenizer(directory, VOCAB_SIZE).grammars
    assert "no token that ends a text" in grammars.problem(source_of("regex", "a"))
    assert grammars.begun(source_of("regex", "(.|\\n)*"))


@pytest.mark.parametrize(
    ("text", "is_one"), [('{"x":1}', True), ('{"x": 1}', True), ('{"x":\n1}', False)], ids=str
)
def test_white_space_of_ones_own(plain: Tokenizer, text: str, is_one: bool) -> None:
    """Nothing else stands between the parts of JSON."""
    schema = '{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]}'
    matcher = plain.grammars.begun(source_of("json", schema, space=" ?"))
    ids = plain.ids_of(text)
    assert (matcher.validate_tokens(ids) == len(ids)) is is_one


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("free text", True), ("so <f=a>7</f> and more", True), ("so <f=b>", False), ("so <f=a>x", False)],
    ids=str,
)
def test_tags_in_free_text(plain: Tokenizer, text: str, is_one: bool) -> None:
    """What a trigger begins is one of the structures, to its end."""
    tags = '{"structures":[{"begin":"<f=a>","schema":{"type":"integer"},"end":"</f>"}],"triggers":["<f"]}'
    matcher = plain.grammars.begun(source_of("structural_tag", tags))
    ids = plain.ids_of(text)
    assert (matcher.validate_tokens(ids) == len(ids)) is is_one


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ('{"structures":[],"triggers":["a"]}', "structures may not be empty"),
        ('{"structures":[{"begin":"a"}],"triggers":["a"]}', "needs begin and end"),
        (
            '{"structures":[{"begin":"a","end":"","schema":{}}],"triggers":["b"]}',
            "begins with none of the triggers",
        ),
    ],
    ids=str,
)
def test_tags_that_are_none(tags: str, words: str) -> None:
    """What is missing is said."""
    with pytest.raises(ValueError, match=words):
        source_of("structural_tag", tags)
