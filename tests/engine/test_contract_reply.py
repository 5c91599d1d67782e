"""contract.md's reply where the rules (conform/) would have to know the model: its tokens, its entry."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.serving import CONTEXT_SIZE, EOS_ID, SMOL, TINY, VOCAB_SIZE, Client

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def test_echo_covers_the_prompt_in_logprobs(client: Client) -> None:
    """One entry per token of prompt and completion, none for the very first."""
    logprobs = client.choice(echo=True, logprobs=1, **GREEDY)["logprobs"]
    assert logprobs["tokens"][:5] == ["The", " capital", " of", " France", " is"]
    assert [value is None for value in logprobs["token_logprobs"]] == [True] + [False] * 10
    assert logprobs["text_offset"][:6] == [0, 3, 11, 14, 21, 24]


def test_left_out_stop_sequence_keeps_its_tokens_in_logprobs(client: Client) -> None:
    """The text is trimmed, the arrays have every generated token and every offset lies in the text."""
    choice = client.choice(stop="ris.", include_stop_str_in_output=False, logprobs=1, **GREEDY)
    assert choice["text"] == " Pa"
    assert choice["logprobs"]["tokens"] == [" Paris", "."]


def test_models_are_listed_with_both_services_fields(client: Client) -> None:
    """The hosted service's fields and OpenAI's together."""
    listed = client.get("/v3/openai/models").json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == [SMOL, TINY]
    entry = listed["data"][1]
    own = client.get(f"/v3/openai/models/{TINY}").json()
    assert entry.items() <= own.items()
    assert (own["vocab_size"], own["eos_token_ids"]) == (VOCAB_SIZE, [EOS_ID])
    assert abs(entry.pop("created") - time.time()) < 3600
    assert entry == {
        "id": TINY,
        "object": "model",
        "owned_by": "verbatim",
        "title": "Tiny",
        "description": "Random weights.",
        "context_size": CONTEXT_SIZE,
        "input_token_price_per_m": 0,
        "output_token_price_per_m": 0,
    }
