"""contract.md's request where the rules (conform/) would have to know the model, or its settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serving import (
    CAPITAL,
    CAPITAL_IDS,
    CONTEXT_SIZE,
    EOS_ID,
    PARIS_ID,
    TINY,
    Client,
    wait_for,
)

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def test_model_default_goes_before_the_contract_and_the_request_before_both(client: Client) -> None:
    """The tiny model's defaults say five tokens, greedily."""
    reply = client.complete(model=TINY, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["choices"] == client.complete(model=TINY, ignore_eos=True, top_k=1)["choices"]
    assert client.complete(model=TINY, ignore_eos=True, max_tokens=3)["usage"]["completion_tokens"] == 3


def test_token_ids_and_their_text_are_the_same_prompt(client: Client) -> None:
    """A string, its array, its ids and an array of them ask for the same."""
    choice = client.choice(prompt=CAPITAL, **GREEDY)
    for prompt in ([CAPITAL], CAPITAL_IDS, [CAPITAL_IDS]):
        assert client.choice(prompt=prompt, **GREEDY) == choice


def test_empty_prompt_is_the_bos_token(client: Client) -> None:
    """An empty text begins a text, and counts one token."""
    reply = client.complete(prompt="", **GREEDY)
    assert reply["usage"]["prompt_tokens"] == 1
    assert reply["choices"] == client.complete(prompt=[1], **GREEDY)["choices"]


@pytest.mark.parametrize(
    ("limited", "value"), [("n", 5), ("best_of", 9), ("stop", list("abcdefg")), ("prompt", ["a"] * 4)]
)
def test_model_may_limit_what_a_request_asks_for(client: Client, limited: str, value: Any) -> None:
    """More than a model's own limit is a 400 like more than the contract's."""
    response = client.ask(model=TINY, **{limited: value})
    assert (response.status_code, response.json()["metadata"]["field"]) == (400, limited)


def test_model_may_allow_more_stop_sequences(client: Client) -> None:
    """The limit of four is configurable."""
    client.complete(model=TINY, stop=list("abcdef"))


def test_best_of_needs_no_logprobs(client: Client) -> None:
    """Ranking asks the engine for what the client did not ask for, and shows none of it; without giving up,
    usage counts every candidate whole."""
    reply = client.complete(model=TINY, n=1, best_of=3, temperature=1, max_tokens=4, ignore_eos=True)
    assert reply["choices"][0]["logprobs"] is None
    assert reply["usage"]["completion_tokens"] == 12


def test_stop_sequence_may_be_left_out(client: Client) -> None:
    """By the request, or by the model's setting, which the request may override."""
    assert client.choice(stop="ris.", include_stop_str_in_output=False, **GREEDY)["text"] == " Pa"
    word = client.choice(model=TINY)["text"][:4]
    assert client.choice(model=TINY, stop=word)["text"] == ""
    assert client.choice(model=TINY, stop=word, include_stop_str_in_output=True)["text"] == word


def test_eos_ends_the_text_unless_ignored(client: Client) -> None:
    """The end token is not shown, finish_reason is stop; ignore_eos goes on to max_tokens."""
    forced: dict[str, Any] = {"logit_bias": {str(EOS_ID): 100}, **GREEDY}
    reply = client.complete(**forced)
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("", "stop")
    reply = client.complete(ignore_eos=True, **forced)
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 6)


def test_min_tokens_keeps_the_end_away(client: Client) -> None:
    """The end token and stop tokens are not sampled before, and a stop sequence does not stop."""
    reply = client.complete(logit_bias={str(EOS_ID): 100}, min_tokens=3, **GREEDY)
    assert reply["usage"]["completion_tokens"] == 4
    assert client.choice(stop="Paris", min_tokens=3, **GREEDY)["text"].startswith(" Paris.\n")
    assert (
        "Paris"
        not in client.choice(stop_token_ids=[PARIS_ID], min_tokens=3, **GREEDY | {"max_tokens": 3})["text"]
    )


def test_special_tokens_are_skipped_unless_wanted(client: Client) -> None:
    """skip_special_tokens false shows them in the completion and in the echoed prompt."""
    forced: dict[str, Any] = {"logit_bias": {"1": 100}, "max_tokens": 2, "prompt": [1, 504], "echo": True}
    assert client.choice(**forced)["text"] == "The"
    shown = client.choice(skip_special_tokens=False, **forced)["text"]
    assert shown == "<|im_start|>The<|im_start|><|im_start|>"


def test_prompt_may_be_truncated(client: Client) -> None:
    """The last so many tokens stay; -1 keeps what leaves room for max_tokens."""
    reply = client.complete(truncate_prompt_tokens=2, echo=True, **GREEDY)
    assert reply["usage"]["prompt_tokens"] == 2
    assert reply["choices"][0]["text"].startswith(" France is")
    reply = client.complete(model=TINY, prompt=[5] * 1000, truncate_prompt_tokens=-1, max_tokens=6)
    assert reply["usage"]["prompt_tokens"] == CONTEXT_SIZE - 6


def test_suffix_fills_the_models_template(client: Client) -> None:
    """A model with a fill-in-the-middle template is given prompt and suffix in its order."""
    filled = client.choice(model=TINY, prompt="<suf>world<pre>hello", max_tokens=5)
    assert client.choice(model=TINY, prompt="hello", suffix="world", max_tokens=5) == filled
    lengths = [
        client.complete(model=TINY, prompt="hello", suffix=suffix)["usage"]["prompt_tokens"]
        for suffix in ("world", "")
    ]
    assert lengths[0] > lengths[1]


def test_unknown_field_is_ignored_unless_the_model_is_strict(client: Client) -> None:
    """strict_fields makes it a 400 that names the field."""
    client.complete(max_tokens=1, temprature=1)
    response = client.ask(model=TINY, temprature=1)
    assert (response.status_code, response.json()["metadata"]["field"]) == (400, "temprature")


def test_user_is_found_in_the_request_log(client: Client, started: Any) -> None:
    """And nowhere else."""
    assert "somebody-7" not in json.dumps(client.complete(max_tokens=1, user="somebody-7"))
    wait_for(lambda: "user=somebody-7" in started.server.said(), 30)  # written when the reply has gone
