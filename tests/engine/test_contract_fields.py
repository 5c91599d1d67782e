"""Fields as vLLM names them, where a rule of conform/ cannot show what they do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.serving import SMOL, TINY, Client, assert_alike

pytestmark = pytest.mark.engine

END = "<|im_end|>"


def test_a_users_text_is_not_control(client: Client) -> None:
    """With parse_special false the name of a special token is several tokens, which are its letters."""
    asked = {"model": TINY, "prompt": END, "echo": True, "max_tokens": 0, "logprobs": 0}
    assert client.choice(**asked)["logprobs"]["tokens"] == [END]
    letters = client.choice(**asked, parse_special=False)["logprobs"]["tokens"]
    assert len(letters) > 1
    assert "".join(letters) == END


GREEDY = {"model": TINY, "prompt": [300, 400, 500], "max_tokens": 24, "logprobs": 0, "ignore_eos": True}


def names(client: Client, **fields: Any) -> list[str]:
    found: list[str] = client.choice(**GREEDY | fields)["logprobs"]["tokens"]
    return found


def test_bad_words_of_several_tokens(client: Client) -> None:
    """A word is kept from being completed, not begun: up to its last token the text is as without it."""
    pair = {"allowed_token_ids": [260, 7042], "frequency_penalty": 2}
    plain, seen = names(client, **pair), names(client, **pair, bad_words=["the Paris"])
    place = [*pairwise(plain)].index((" the", " Paris")) + 1
    assert seen[: place + 1] == [*plain[:place], " the"]
    assert (" the", " Paris") not in pairwise(seen)


def test_allowed_tokens_are_all_that_comes(client: Client) -> None:
    """Together with penalties, a seed and best_of; the end of the text comes only if it is allowed."""
    asked = GREEDY | {"ignore_eos": False, "temperature": 1, "seed": 3}
    allowed = {"allowed_token_ids": [7042, 260, 28], "repetition_penalty": 1.3, "n": 2, "best_of": 3}
    choices = client.complete(**asked, **allowed)["choices"]
    known = {" Paris", " the", ","}
    assert {name for choice in choices for name in choice["logprobs"]["tokens"]} == known
    assert [choice["finish_reason"] for choice in choices] == ["length", "length"]


def test_a_cache_is_for_its_salt(client: Client) -> None:
    """What is cached of a prompt is found by requests of the same salt alone."""
    hits = f'vllm:prefix_cache_hits_total{{engine="0",model_name="{TINY}"}}'
    prompt = [*range(1000, 1200)]
    found = []
    for salt in ("a", "a", "b", None):
        before = client.metric(hits)
        client.complete(**GREEDY | {"prompt": prompt, "max_tokens": 1}, cache_salt=salt)
        found.append(client.metric(hits) - before > 0)
    assert found == [False, True, False, False]


def test_named_tokens_are_told_of(client: Client) -> None:
    """Of the requests of one step each gets what it has asked for: named tokens, or the most likely ones."""
    asked = GREEDY | {"max_tokens": 40, "logprobs": 3}
    plain = client.choice(**asked)["logprobs"]
    with ThreadPoolExecutor(8) as pool:
        fields = [{"logprob_token_ids": [7042, 260]}, {}] * 4
        found = [*pool.map(lambda more: client.choice(**asked | more)["logprobs"], fields)]
    for more, logprobs in zip(fields, found, strict=True):
        assert logprobs["tokens"] == plain["tokens"]
        if more:
            for name, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
                assert set(top) == {" Paris", " the", name}
        else:
            assert_alike(logprobs, plain)
    named = client.choice(**asked | {"max_tokens": 1, "logprob_token_ids": [7042]})["logprobs"][
        "top_logprobs"
    ]
    forced = client.choice(**asked | {"max_tokens": 1, "allowed_token_ids": [7042]})["logprobs"]
    assert named[0][" Paris"] == pytest.approx(forced["token_logprobs"][0], abs=1e-5)


def test_candidates_are_ranked_all_the_same(client: Client) -> None:
    """With best_of, named tokens change nothing but what is told."""
    asked = GREEDY | {"temperature": 1, "seed": 4, "n": 2, "best_of": 4}
    plain = client.complete(**asked)["choices"]
    named = client.complete(**asked, logprob_token_ids=[260])["choices"]
    assert [choice["text"] for choice in named] == [choice["text"] for choice in plain]


def test_candidates_are_told_of(client: Client) -> None:
    """Of best_of's candidates each has its mean: the choices', which their log-probabilities add up to, and
    lower ones, which those that were given up cannot have made good any more."""
    asked = GREEDY | {"model": SMOL, "temperature": 1, "seed": 4, "n": 2, "max_tokens": 48}
    reply = client.complete(**asked, best_of=8, return_candidates=True)
    told = reply["candidates"]
    assert [one["number"] for one in told] == [*range(8)]
    assert sum(one["completion_tokens"] for one in told) == reply["usage"]["completion_tokens"]
    ranked = sorted((one for one in told if one["choice"] is not None), key=lambda one: one["choice"])
    for one, choice in zip(ranked, reply["choices"], strict=True):
        values = choice["logprobs"]["token_logprobs"]
        assert one["mean_logprob"] == pytest.approx(sum(values) / len(values), abs=1e-6)
        assert (one["finish_reason"], one["given_up_after"]) == (choice["finish_reason"], None)
    lost = [one for one in told if one["given_up_after"] is not None]
    assert lost
    for one in lost:
        assert one["given_up_after"] == one["completion_tokens"] < 48
        at_best = one["mean_logprob"] * one["completion_tokens"] / 48
        assert at_best <= ranked[-1]["mean_logprob"]
