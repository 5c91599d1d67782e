"""What a few requests tell about a server, before the rules."""

from __future__ import annotations

import json

import httpx
import pytest

from conform.subject.ends import ConformError, Skipped
from conform.subject.frames import Json
from conform.subject.server import COST, Subject, learn
from tests.conform.canned import CHOICE, ENTRY, REPLY, Handler, client_of, replies


def _learned(handler: Handler = replies, model: str | None = None, entry: Json | None = None) -> Subject:
    return learn(client_of(handler), "hosted", [ENTRY | (entry or {})], model, key=False)


def test_the_first_model_is_taken() -> None:
    """Unless one is named, in the list or not."""
    assert _learned().model == "m"
    assert _learned(model="other").model == "other"
    with pytest.raises(ConformError, match="lists no models: name one with --model"):
        learn(client_of(), "hosted", [], None, key=False)


@pytest.mark.parametrize("name", ["context_size", "max_model_len"])
def test_the_context_is_the_entrys(name: str) -> None:
    """By the hosted service's name or by vLLM's; without one, rules that need it are skipped."""
    assert _learned(entry={name: 256}).small_context() == 256
    for subject in (_learned(), _learned(entry={name: 10**5})):
        with pytest.raises(Skipped):
            subject.small_context()


def test_the_vocabulary_is_told_by_a_refusal() -> None:
    """Where its message has the range of ids."""

    def handler(request: httpx.Request) -> httpx.Response:
        known = isinstance(json.loads(request.content)["prompt"], str)
        return httpx.Response(200, json=REPLY) if known else httpx.Response(400, text="between 0 and 299 ")

    assert _learned(handler).vocab_size == 300
    assert _learned().vocab_size is None


def test_rules_of_logprobs_are_skipped_without_any() -> None:
    """And so are those that need two tokens to decide between."""
    with pytest.raises(Skipped, match="returns no logprobs"):
        _learned().duel()


def test_a_server_that_fails_a_plain_request_is_not_tried() -> None:
    """What it has said is said."""
    with pytest.raises(ConformError, match="a plain request for m fails: 503: loading"):
        _learned(lambda _: httpx.Response(503, text="loading"))


def test_what_is_learned_keeps_its_budget() -> None:
    """Also where no two tokens are found."""
    logprobs = {
        "tokens": ["a", "a"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [],
        "text_offset": [0, 1],
    }
    choice = CHOICE | {"logprobs": logprobs}
    subject = _learned(lambda _: httpx.Response(200, json=REPLY | {"choices": [choice]}))
    assert subject.duel_or_none is None
    assert subject.client.budget.used.requests <= COST.requests
