"""Replies of every family: ids to text, bytes, and the stream that adds up to them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.families.conftest import Model
from tests.families.table import FAMILIES, by_length
from tests.families.test_prompts import TEXTS
from tests.serving import as_bytes, assert_alike, fold

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

SAMPLED: dict[str, Any] = {"temperature": 1.5, "seed": 1, "max_tokens": 60, "ignore_eos": True}
HALVES = ["bytes:\\xc3", "bytes:\\xa9"]  # of é
WITH_BYTES = by_length(name for name, family in FAMILIES.items() if family.has_bytes)


@pytest.mark.parametrize("skip", [True, False])
def test_ids_decode_as_transformers_does(model: Model, skip: bool) -> None:
    """Ids of texts with special tokens between them, with and without these in the text."""
    ids = [i for text in TEXTS for i in model.tokenizer(text).input_ids]
    choice = model.choice(prompt=ids, echo=True, max_tokens=0, skip_special_tokens=skip)
    assert choice["text"] == model.tokenizer.decode(ids, skip_special_tokens=skip)


def test_tokens_add_up_to_the_text(model: Model) -> None:
    """The bytes that the tokens of a completion name are its text's; what is no UTF-8 is U+FFFD there."""
    choice = model.choice(**SAMPLED, logprobs=0, skip_special_tokens=False)
    content = b"".join(map(as_bytes, choice["logprobs"]["tokens"]))
    assert choice["text"] == content.decode("utf-8", "replace")


def test_offsets_point_at_the_tokens(model: Model) -> None:
    """Behind an echoed prompt, a token that is whole characters stands where its offset says, also after
    bytes that became none."""
    asked = {"prompt": TEXTS[3], "echo": True, "logprobs": 0, "skip_special_tokens": False, **SAMPLED}
    reply = model.client.complete(model=model.name, **asked)
    (choice,) = reply["choices"]
    completion = slice(reply["usage"]["prompt_tokens"], None)
    tokens, offsets = (choice["logprobs"][name][completion] for name in ("tokens", "text_offset"))
    for token, offset in zip(tokens, offsets, strict=True):
        if not token.startswith(("bytes:", "token_id:")):
            assert choice["text"].startswith(token, offset), (token, offset)


@pytest.mark.parametrize(
    "fields",
    [{}, {"echo": True}, {"n": 3}, {"stop": ["e"]}, {"stop": ["en"], "include_stop_str_in_output": False}],
    ids=str,
)
def test_folded_stream_is_the_reply(model: Model, fields: dict[str, Any]) -> None:
    """Field by field, for the same seed."""
    asked = {"model": model.name, "prompt": TEXTS[3], "logprobs": 2, **SAMPLED, **fields}
    assert_alike(fold(model.client.chunks(**asked)), model.client.complete(**asked)["choices"])


@pytest.mark.parametrize("model", WITH_BYTES, indirect=True)
def test_stream_never_splits_a_character(model: Model) -> None:
    """A character of two tokens comes whole: the chunks' texts are those of the whole's bytes."""
    bias = {str(model.id_of[half]): 100 for half in HALVES}
    asked = {**SAMPLED, "logit_bias": bias, "frequency_penalty": 2}  # so that both of them come
    chunks = model.client.chunks(model=model.name, logprobs=0, **asked)
    (choice,) = fold(chunks)
    content = b"".join(map(as_bytes, choice["logprobs"]["tokens"]))
    assert choice["text"] == content.decode("utf-8", "replace")
    assert "é" in choice["text"]


@pytest.mark.parametrize("model", WITH_BYTES, indirect=True)
def test_character_begun_in_the_prompt_is_whole(model: Model) -> None:
    """With echo, a completion goes on where the prompt's ids have stopped, within a character too."""
    first, last = (model.id_of[half] for half in HALVES)
    prompt = [*model.tokenizer("The ca").input_ids, first]
    choice = model.choice(prompt=prompt, echo=True, logit_bias={str(last): 100}, temperature=0, max_tokens=1)
    assert choice["text"] == "The caé"
