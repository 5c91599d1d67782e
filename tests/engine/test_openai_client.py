"""OpenAI's official Python client, unchanged, sync and async, against this server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.engine.conftest import KEYS, Started
from tests.serving import CAPITAL, SMOL, TINY, Client

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"model": SMOL, "prompt": CAPITAL, "max_tokens": 6, "temperature": 0}
TEXT = " Paris.\n\nThe answer"
# Every field of the contract that the client has no argument for.
EXTRA: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "ignore_eos": True,
    "min_tokens": 2,
    "stop_token_ids": [3],
    "skip_special_tokens": False,
    "include_stop_str_in_output": False,
    "truncate_prompt_tokens": 4,
}


@pytest.fixture(scope="module")
def sdk(started: Started) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEYS["alice"], base_url=started.url + "/v3/openai", max_retries=0) as sdk:
        yield sdk


def test_completion(sdk: openai.OpenAI) -> None:
    """The reply has every attribute that the client knows."""
    completion = sdk.completions.create(**GREEDY, logprobs=2)
    choice = completion.choices[0]
    assert (completion.object, completion.model, choice.text) == ("text_completion", SMOL, TEXT)
    assert (choice.index, choice.finish_reason) == (0, "length")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == TEXT
    assert completion.usage is not None
    assert completion.usage.total_tokens == 11


def test_stream(sdk: openai.OpenAI) -> None:
    """Chunks add up to the text; a loop that indexes choices[0] unguarded works."""
    with sdk.completions.create(**GREEDY, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_stream_with_usage(sdk: openai.OpenAI) -> None:
    """include_usage brings the chunk without choices that OpenAI's documentation promises."""
    with sdk.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 6


async def test_async_client(started: Started) -> None:
    """The same, streamed and whole, from the asynchronous client."""
    async with openai.AsyncOpenAI(api_key=KEYS["alice"], base_url=started.url + "/v1", max_retries=0) as sdk:
        completion = await sdk.completions.create(**GREEDY)
        assert completion.choices[0].text == TEXT
        async with await sdk.completions.create(**GREEDY, stream=True) as stream:
            assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT
        assert [model.id async for model in sdk.models.list()] == [SMOL, TINY]


def test_own_arguments_of_the_client(sdk: openai.OpenAI) -> None:
    """Every argument that it has, at once."""
    completion = sdk.completions.create(
        model=SMOL,
        prompt=[CAPITAL, "One two"],
        best_of=3,
        echo=True,
        frequency_penalty=0.5,
        logit_bias={"7042": -5},
        logprobs=3,
        max_tokens=5,
        n=2,
        presence_penalty=-0.5,
        seed=7,
        stop=["zzz"],
        suffix=None,
        temperature=0.8,
        top_p=0.9,
        user="me",
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert completion.choices[2].text.startswith("One two")


def test_candidates_are_an_attribute(sdk: openai.OpenAI) -> None:
    """What return_candidates adds to the reply is there, although the client knows no such key."""
    more = {"return_candidates": True}
    completion = sdk.completions.create(**GREEDY | {"temperature": 1}, best_of=3, seed=1, extra_body=more)
    (best,) = (one for one in completion.candidates if one["choice"] == 0)  # type: ignore[attr-defined]
    assert best["finish_reason"] == completion.choices[0].finish_reason


@pytest.mark.parametrize("stream", [False, True])
def test_extra_body_carries_the_other_fields(sdk: openai.OpenAI, client: Client, stream: bool) -> None:
    """They have the effect that they have without the client."""
    asked: dict[str, Any] = {"model": SMOL, "prompt": CAPITAL, "seed": 3, "max_tokens": 8}
    expected = client.choice(**asked, **EXTRA)["text"]
    assert expected != client.choice(**asked)["text"]
    if stream:
        with sdk.completions.create(**asked, stream=True, extra_body=EXTRA) as chunks:
            assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    else:
        assert sdk.completions.create(**asked, extra_body=EXTRA).choices[0].text == expected


def test_every_extra_field_is_checked(sdk: openai.OpenAI) -> None:
    """So that none of them is silently dropped on the way."""
    for field in EXTRA:
        with pytest.raises(openai.BadRequestError, match=field):
            sdk.completions.create(**GREEDY, extra_body={field: {"wrong": "type"}})


def test_models(sdk: openai.OpenAI) -> None:
    """The list, and one by its id with a slash."""
    assert [model.id for model in sdk.models.list()] == [SMOL, TINY]
    assert sdk.models.retrieve(SMOL).owned_by == "verbatim"
    assert sdk.models.retrieve(TINY).id == TINY


@pytest.mark.parametrize(
    ("key", "changed", "error"),
    [
        ("alice", {"temperature": 9}, openai.BadRequestError),
        ("alice", {"model": "none"}, openai.NotFoundError),
        ("carol", {}, openai.AuthenticationError),
        ("bob", {"model": TINY}, openai.PermissionDeniedError),
        ("alice", {"prompt": "x" * 1_000_000}, openai.APIStatusError),
        ("alice", {"stream": True, "top_p": 7}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own(
    started: Started, key: str, changed: dict[str, Any], error: type[openai.APIStatusError]
) -> None:
    """Each status becomes the exception that programs catch, with message, code and param."""
    with openai.OpenAI(api_key=KEYS[key], base_url=started.url + "/v1", max_retries=0) as sdk:
        with pytest.raises(error) as caught:
            sdk.completions.create(**GREEDY | changed)
        body = caught.value.body
        assert isinstance(body, dict)
        assert body["message"]
        assert caught.value.code == body["code"]
        assert caught.value.request_id
