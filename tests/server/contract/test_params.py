from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config.model import ModelSettings
from server.contract.params import (
    GenerationParams,
    StreamParams,
    candidate_seed,
    resolve,
    resolve_stream,
)
from server.contract.request import CompletionRequest
from server.contract.values import MAX_HELD_BACK
from server.errors import InvalidRequest

NUMBERS = {
    "max_tokens": (3, 5),
    "temperature": (0.5, 0.25),
    "top_p": (0.5, 0.25),
    "top_k": (3, 5),
    "min_p": (0.5, 0.25),
    "frequency_penalty": (0.5, 0.25),
    "presence_penalty": (0.5, 0.25),
    "repetition_penalty": (0.5, 0.25),
}

PINNED = [2770875209321528543, 3798930308004970444, 3271472025152900426]


def resolved(body: dict[str, Any], **model: Any) -> GenerationParams:
    request = CompletionRequest.model_validate({"model": "m", "prompt": "a"} | body)
    settings: dict[str, Any] = {"id": "m", "path": Path("m")} | model
    return resolve(request, ModelSettings(**settings), 300)


def resolved_for(body: dict[str, Any], eos_ids: tuple[int, ...]) -> GenerationParams:
    request = CompletionRequest.model_validate({"model": "m", "prompt": "a"} | body)
    return resolve(request, ModelSettings(id="m", path=Path("m")), 300, eos_ids)


def test_contract_defaults() -> None:
    """Where neither request nor model say anything, the contract's defaults hold: those of the class."""
    assert resolved({}) == GenerationParams()


@pytest.mark.parametrize("name", NUMBERS)
def test_precedence(name: str) -> None:
    """The request goes before the model, the model before the contract; null is not given."""
    of_request, of_model = NUMBERS[name]
    assert getattr(resolved({name: of_request}, defaults={name: of_model}), name) == of_request
    assert getattr(resolved({name: None}, defaults={name: of_model}), name) == of_model


def test_neutral_values_win_too() -> None:
    """A zero in a request is a value, not an absence."""
    body = {"temperature": 0, "max_tokens": 0, "top_k": 0}
    params = resolved(body, defaults={"temperature": 1.5, "max_tokens": 9, "top_k": 9})
    assert (params.temperature, params.max_tokens, params.top_k) == (0, 0, 0)


def test_model_top_k_off() -> None:
    """-1 is off in a model's defaults as well."""
    assert resolved({}, defaults={"top_k": -1}).top_k == 0


@pytest.mark.parametrize(("of_request", "included"), [(None, False), (True, True), (False, False)])
def test_include_stop(of_request: bool | None, included: bool) -> None:
    """The model says whether stop sequences are in the text, unless the request does."""
    params = resolved({"include_stop_str_in_output": of_request}, include_stop_text=False)
    assert params.include_stop is included


@pytest.mark.parametrize(
    ("body", "limits", "words"),
    [
        ({"n": 3}, {"n": 2}, "n (current value: 3) must be between 1 and 2"),
        ({"best_of": 3}, {"best_of": 2}, "best_of (current value: 3) must be between 1 and 2"),
        ({"stop": ["a", "b"]}, {"stop": 1}, "at most 1"),
        ({"stop": "a"}, {"stop": 0}, "at most 0"),
    ],
)
def test_model_limits(body: dict[str, Any], limits: dict[str, int], words: str) -> None:
    """A model may allow less than the contract, and the message says how much."""
    with pytest.raises(InvalidRequest) as caught:
        resolved(body, limits=limits)
    assert words in caught.value.message


def test_best_of_limit_leaves_n_alone() -> None:
    """A limit on best_of is one on candidates that are asked for, not on n by itself."""
    assert resolved({"n": 3}, limits={"best_of": 2}).best_of == 3


def test_model_may_allow_more_stops() -> None:
    """The limit on stop sequences can be raised."""
    assert len(resolved({"stop": ["a"] * 9}, limits={"stop": 9}).stop) == 9


def test_unknown_fields_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What a request says beyond the contract is ignored, and logged for those who debug."""
    with caplog.at_level(logging.DEBUG):
        assert resolved({"temprature": 0}) == GenerationParams()
    assert "temprature" in caplog.text


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ({}, StreamParams()),
        ({"stream": True}, StreamParams(stream=True)),
        ({"stream": True, "stream_options": {"include_usage": True}}, StreamParams(True, True)),
        ({"stream": True, "stream_options": {"include_usage": False}}, StreamParams(True, False)),
        (
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            StreamParams(True, True, True),
        ),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, StreamParams(True)),
    ],
)
def test_stream(body: dict[str, Any], how: StreamParams) -> None:
    """continuous_usage_stats has an effect together with include_usage alone."""
    assert resolve_stream(CompletionRequest.model_validate({"model": "m", "prompt": "a"} | body)) == how


def test_seeds_do_not_overlap() -> None:
    """The candidates of neighbouring seeds and prompts draw from streams of their own."""
    seeds = {candidate_seed(s, p, c) for s in range(-20, 20) for p in range(10) for c in range(10)}
    assert len(seeds) == 4000


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 1023), st.integers(0, 127))
def test_seeds_fit(seed: int, prompt: int, candidate: int) -> None:
    """A candidate's seed is the same every time, and fits the 64 bits that an engine takes."""
    value = candidate_seed(seed, prompt, candidate)
    assert value == candidate_seed(seed, prompt, candidate)
    assert 0 <= value < 2**62


def test_seed_values_are_pinned() -> None:
    """The derivation is part of the contract with clients that repeat a seed: it does not change."""
    assert [candidate_seed(42, 0, 0), candidate_seed(42, 0, 1), candidate_seed(43, 0, 0)] == PINNED


@pytest.mark.parametrize(
    ("count", "fields", "allowed"),
    [
        (MAX_HELD_BACK - 2, {"min_tokens": 1}, True),
        (MAX_HELD_BACK - 1, {"min_tokens": 1}, False),
        (MAX_HELD_BACK, {"min_tokens": 1, "ignore_eos": True}, True),
        (MAX_HELD_BACK + 1, {"min_tokens": 1, "ignore_eos": True}, False),
        (2 * MAX_HELD_BACK, {}, True),
    ],
)
def test_ids_that_an_engine_can_hold_back(count: int, fields: dict[str, Any], allowed: bool) -> None:
    """With min_tokens at most 128 together with the model's ends; without, there is nothing to hold back."""
    body = {"stop_token_ids": [*range(count), 0, 0], "max_tokens": 5} | fields
    if allowed:
        assert len(resolved_for(body, eos_ids=(1, 2)).stop_token_ids) == count
    else:
        with pytest.raises(InvalidRequest, match=rf"stop_token_ids \({count} different ids\) must be"):
            resolved_for(body, eos_ids=(1, 2))


def test_allowed_ids_have_one_that_may_come_first() -> None:
    """With min_tokens an allowed id that only ends the text is none."""
    body: dict[str, Any] = {"allowed_token_ids": [1, 2, 1], "stop_token_ids": [2], "max_tokens": 5}
    assert resolved_for(body, eos_ids=(1,)).allowed_token_ids == (1, 2)
    assert resolved_for(body | {"min_tokens": 1, "ignore_eos": True}, eos_ids=(1,)).min_tokens == 1
    with pytest.raises(InvalidRequest, match="must have an id that does not end the text"):
        resolved_for(body | {"min_tokens": 1}, eos_ids=(1,))


def bad_words(words: list[str], ids: dict[str, list[int]]) -> tuple[tuple[int, ...], ...]:
    request = CompletionRequest(model="m", prompt="a", bad_words=words)
    return resolve(
        request, ModelSettings(id="m", path=Path("m")), 300, ids_of=lambda text: ids[text]
    ).bad_words


def test_bad_words_are_read_as_vllm_does() -> None:
    """A word also with a space before it, where that makes as many tokens, and others."""
    ids = {"cat": [5, 6], " cat": [7, 6], "a": [8], " a": [9, 8], "b": [10], " b": [10]}
    assert bad_words(["cat", " a", "b", "b"], ids) == ((5, 6), (7, 6), (8,), (10,))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x"], "consist of tokens of the model"),
        (["cat", " \n"], "words of 1 to 256 characters"),
        ([""], "words of 1 to 256 characters"),
        (["c" * 257], "words of 1 to 256 characters"),
        (["cat"] * 129, r"bad_words \(129 words\) must be at most 128"),
    ],
)
def test_bad_words_that_are_none(words: list[str], said: str) -> None:
    """One that the model cannot say, or that is no word, is refused; so are too many of them."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        bad_words(words, {"cat": [5], " cat": [6], "x": [300], " x": [1]})
    assert caught.value.metadata == {"field": "bad_words"}
