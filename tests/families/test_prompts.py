"""Prompts of every family: their ids, what stands before them, their echo and where their tokens begin."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.families.conftest import Model
from tests.serving import as_bytes

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

TEXTS = [
    "The capital of France is Paris.",
    " leading space, and a trailing one ",
    "   three spaces,  two,\n\n\nthree line ends,\ta tab\r\n",
    "naïve 🦊 日本語 👩‍👩‍👧‍👦 — عاصمة مصر",
    "I'd've paid 1,234,567 for a Größe",
    "<s>a</s> b<|endoftext|> c<bos>d <|im_start|>user\nhi<|im_end|> <think>e</think>",
    "<|eot_id|> <|end|>  f [INST] g [/INST]<unk><pad>h<0x41>",
    "▁x a\u00a0b",
    " ",
]
DECOMPOSED = "e\u0301 ﬁ\u00a0x"  # what some normalizers compose, so that offsets have no one place


@pytest.fixture(scope="module")
def echoes(model: Model) -> dict[str, dict[str, Any]]:
    """By its text, what a reply that only echoes says of each."""
    texts = [*TEXTS, DECOMPOSED]
    reply = model.client.complete(model=model.name, prompt=texts, echo=True, logprobs=0, max_tokens=0)
    return dict(zip(texts, reply["choices"], strict=True))


def test_ids_are_transformers(model: Model, echoes: dict[str, dict[str, Any]]) -> None:
    """A text's tokens are those of transformers' tokenizer, the one in front included; a text that begins
    with it gets no second one (`single_bos`)."""
    bos = model.tokenizer.bos_token_id
    for text, choice in echoes.items():
        ids = [model.id_of[name] for name in choice["logprobs"]["tokens"]]
        expected = model.tokenizer(text).input_ids
        assert ids == (expected[1:] if expected[:2] == [bos, bos] else expected)


def test_beginning(model: Model, echoes: dict[str, dict[str, Any]]) -> None:
    """The family's own token stands before a text, where the family has one; nothing else does."""
    for text in TEXTS:
        first = echoes[text]["logprobs"]["tokens"][0]
        assert first == model.family.bos or (model.family.bos is None and is_at(as_bytes(first), text, 0))


def test_empty_prompt_is_the_beginning(model: Model) -> None:
    """An empty string is the token for a beginning alone; a model without one refuses it."""
    response = model.client.ask(model=model.name, prompt="", echo=True, logprobs=0, max_tokens=0)
    if model.family.empty is None:
        assert response.status_code == 400
        assert response.json()["metadata"]["field"] == "prompt"
    else:
        (choice,) = response.json()["choices"]
        assert choice["logprobs"]["tokens"] == [model.family.empty]


def test_echo_is_the_prompt(echoes: dict[str, dict[str, Any]]) -> None:
    """Character by character, whatever the tokenizer makes of it."""
    assert [choice["text"] for choice in echoes.values()] == list(echoes)


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_point_at_the_tokens(model: Model, echoes: dict[str, dict[str, Any]], text: str) -> None:
    """Each token's offset is where its text is, the space at its start included; inside a character that
    several tokens share, it is that character's."""
    offsets, tokens = (echoes[text]["logprobs"][name] for name in ("text_offset", "tokens"))
    spans = model.tokenizer(text, return_offsets_mapping=True).offset_mapping
    assert offsets == sorted(offsets)
    for k, (token, offset) in enumerate(zip(tokens, offsets, strict=True)):
        if k == 0 and token == model.family.bos:
            assert offset == 0
        elif token == model.tokenizer.unk_token:
            assert offset == spans[k][0]
        else:
            assert is_at(as_bytes(token), text, offset), (token, offset)


def is_at(token: bytes, text: str, offset: int) -> bool:
    """Whether the token's bytes begin in the character at that offset.

    The space that some tokenizers put before a word is not in the text, and to some any blank is a space.
    """
    width = len(text[offset : offset + 1].encode()) or 1
    written = text[offset:], re.sub(r"\s", " ", text[offset:])
    spelt = token, token.removeprefix(b" ")
    return any(0 <= rest.encode().find(part) < width for rest in written for part in spelt)
