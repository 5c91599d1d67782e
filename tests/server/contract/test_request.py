"""contract.md, "Request": a row for values of each field that are accepted, and refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from conform.rules import table
from server.contract.request import CompletionRequest, parse_request
from server.errors import InvalidRequest
from tests.helpers import (
    CONTEXT_SIZE,
    URL,
    VOCAB_SIZE,
    Engine,
    app_of,
    byte_level,
    model_directory,
    running,
    served,
)
from tests.timing import cost_s

ENGINE = Engine()
ACCEPTED, REFUSED = table.accepted(VOCAB_SIZE), table.refused(VOCAB_SIZE)


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, ENGINE))) as client:
        yield client


async def send(client: httpx.AsyncClient, body: dict[str, Any] | bytes) -> httpx.Response:
    """A short request, with these fields instead of its own."""
    if isinstance(body, dict):
        body = orjson.dumps({"model": "m"} | table.BASE | body)
    return await client.post(URL, content=body)


@pytest.mark.parametrize(("body", "told"), ACCEPTED, ids=str)
async def test_accepted(client: httpx.AsyncClient, body: dict[str, Any], told: dict[str, Any]) -> None:
    """A value within the rule is accepted, and the engine is told of it."""
    reply = await send(client, body)
    assert reply.status_code == 200, reply.text
    params = ENGINE.jobs[-1].params
    assert {name: getattr(params, name) for name in told} == told


PROMPTS: list[tuple[Any, list[list[int]]]] = [
    ("hello", [[261]]),
    (["hello", "é"], [[261], [264]]),
    ([5], [[5]]),
    ([[5, 6], [7]], [[5, 6], [7]]),
    ([VOCAB_SIZE - 1], [[VOCAB_SIZE - 1]]),
    ("", [[0]]),
    (["", "é"], [[0], [264]]),
    ("é" * (CONTEXT_SIZE - 2), [[264] * (CONTEXT_SIZE - 2)]),
]


@pytest.mark.parametrize(("prompt", "ids"), PROMPTS)
async def test_prompt(client: httpx.AsyncClient, prompt: Any, ids: list[list[int]]) -> None:
    """A prompt is a text, several, token ids, or several arrays of them; an empty text is the token BOS."""
    reply = await send(client, {"prompt": prompt})
    assert reply.status_code == 200, reply.text
    assert [job.prompt_ids for job in ENGINE.jobs[-len(ids) :]] == ids
    assert [choice["index"] for choice in reply.json()["choices"]] == list(range(len(ids)))
    assert reply.json()["usage"]["prompt_tokens"] == sum(map(len, ids))


@pytest.mark.parametrize(("field", "value", "words"), REFUSED, ids=lambda v: str(v)[:40])
async def test_refused(client: httpx.AsyncClient, field: str, value: Any, words: str) -> None:
    """A value that breaks its rule is a 400 that names field and rule, and the engine never sees it."""
    before = len(ENGINE.jobs)
    reply = await client.post(URL, json={"model": "m"} | table.BASE | {field: value})
    body = reply.json()
    assert (reply.status_code, body["code"], body["reason"]) == (400, 400, "INVALID_REQUEST_BODY")
    assert body["metadata"] == {"field": field}
    assert field in body["message"]
    assert words in body["message"]
    assert len(ENGINE.jobs) == before


async def test_message(client: httpx.AsyncClient) -> None:
    """The message has the hosted service's form: field, value, range."""
    reply = await send(client, {"temperature": 9})
    assert reply.json()["message"] == "temperature (current value: 9) must be between 0 and 2"


@pytest.mark.parametrize(("body", "field", "words"), table.TOGETHER, ids=str)
async def test_refused_together(
    client: httpx.AsyncClient, body: dict[str, Any], field: str, words: str
) -> None:
    """Fields that do not go together, or that are missing, are a 400 that names the one to change."""
    reply = await send(client, body)
    assert reply.status_code == 400
    assert reply.json()["metadata"] == {"field": field}
    assert words in reply.json()["message"]


@pytest.mark.parametrize(("num_prompt", "max_tokens", "field"), table.too_long(CONTEXT_SIZE))
async def test_context(client: httpx.AsyncClient, num_prompt: int, max_tokens: int, field: str) -> None:
    """More than the context holds is a 400 in the words that clients look for; exactly as much is not."""
    reply = await send(client, {"prompt": [5] * num_prompt, "max_tokens": max_tokens})
    assert (reply.status_code, reply.json()["metadata"]["field"]) == (400, field)
    assert table.too_long_words(CONTEXT_SIZE, num_prompt, max_tokens) in reply.json()["message"]


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens"), [(CONTEXT_SIZE - 1, 1), (1, CONTEXT_SIZE - 1), (CONTEXT_SIZE, 0)]
)
async def test_context_may_be_filled(client: httpx.AsyncClient, num_prompt: int, max_tokens: int) -> None:
    """Prompt and completion together may be as long as the context."""
    body = {"prompt": [5] * num_prompt, "max_tokens": max_tokens, "ignore_eos": True}
    reply = await send(client, body)
    assert reply.json()["usage"]["total_tokens"] == CONTEXT_SIZE


@pytest.mark.parametrize("body", table.NO_JSON_OBJECTS, ids=lambda body: str(body)[:60])
async def test_bodies(client: httpx.AsyncClient, body: bytes) -> None:
    """What is not a JSON object of finite numbers is a 400, whatever it is."""
    reply = await send(client, body)
    assert (reply.status_code, reply.json()["reason"]) == (400, "INVALID_REQUEST_BODY")


@pytest.mark.parametrize("content_type", table.CONTENT_TYPES)
async def test_any_content_type(client: httpx.AsyncClient, content_type: str) -> None:
    """The content type is not looked at: the body is JSON or it is not."""
    body = b'{"model": "m", "prompt": "a"}'
    assert (await client.post(URL, content=body, headers={"content-type": content_type})).status_code == 200


async def test_max_tokens_0(client: httpx.AsyncClient) -> None:
    """No token to generate is legal: empty text, and the engine is not asked."""
    before = len(ENGINE.jobs)
    reply = (await send(client, {"max_tokens": 0, "n": 2})).json()
    assert [(choice["text"], choice["finish_reason"]) for choice in reply["choices"]] == [("", "length")] * 2
    assert reply["usage"] == {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    assert len(ENGINE.jobs) == before


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (3, 3), (10**15, 60), (-1, CONTEXT_SIZE - 2)])
async def test_truncate(client: httpx.AsyncClient, keep: int, kept: int) -> None:
    """truncate_prompt_tokens keeps the prompt's end; -1 keeps what leaves room for max_tokens."""
    ids = list(range(5, 105 if keep < 10**9 else 65))
    reply = await send(client, {"prompt": ids, "truncate_prompt_tokens": keep})
    assert reply.status_code == 200, reply.text
    assert ENGINE.jobs[-1].prompt_ids == ids[-kept:]


async def test_truncation_leaves_a_token(client: httpx.AsyncClient) -> None:
    """Where max_tokens fills the context alone, -1 keeps one token, and the message counts it."""
    body = {"prompt": [5, 6, 7], "truncate_prompt_tokens": -1, "max_tokens": CONTEXT_SIZE}
    message = (await send(client, body)).json()["message"]
    assert table.too_long_words(CONTEXT_SIZE, 1, CONTEXT_SIZE) in message


LIMITED = [({"n": 2}, {"n": 3}), ({"best_of": 3}, {"best_of": 4}), ({"stop": ["a", "b"]}, {"stop": [*"abc"]})]
LIMITED += [
    ({"prompt": ["a"] * 4}, {"prompt": ["a"] * 5}),
    ({"prompt": ["a"] * 2, "best_of": 3}, {"prompt": ["a"] * 3, "best_of": 3}),
]


@pytest.mark.parametrize(("most", "more"), LIMITED, ids=str)
async def test_limits_of_a_model(directory: Path, most: dict[str, Any], more: dict[str, Any]) -> None:
    """As much as a model's own limits allow is accepted, one more is not."""
    limits = {"n": 2, "best_of": 3, "stop": 2, "prompts": 4, "candidates": 6}
    async with running(app_of(served(directory, Engine(), limits=limits))) as client:
        assert [(await send(client, body)).status_code for body in (most, more)] == [200, 400]


async def test_strict_fields(directory: Path) -> None:
    """A model with strict_fields refuses what it does not know; others ignore it."""
    async with running(app_of(served(directory, Engine(), strict_fields=True))) as client:
        reply = await send(client, {"temprature": 1})
        assert (reply.status_code, reply.json()["metadata"]) == (400, {"field": "temprature"})
        assert (await send(client, {"temperature": None})).status_code == 200


async def test_empty_prompt_without_bos(tmp_path: Path) -> None:
    """A model that has no token for the beginning of a text cannot continue an empty one."""
    bare = model_directory(tmp_path / "bare", byte_level(), bos=False)
    async with running(app_of(served(bare, Engine()))) as client:
        for prompt in ("", ["a", ""]):
            reply = await send(client, {"prompt": prompt})
            assert (reply.status_code, reply.json()["metadata"]) == (400, {"field": "prompt"})


@pytest.mark.parametrize(
    ("template", "text"),
    [("<P>{prefix}<S>{suffix}<M>", "<P>a<S>b<M>"), ("<S>{suffix}<P>{prefix}", "<S>b<P>a")],
)
async def test_suffix(directory: Path, template: str, text: str) -> None:
    """A model with a fill-in-the-middle template puts prompt and suffix in their places."""
    model = served(directory, engine := Engine(), suffix_template=template)
    async with running(app_of(model)) as client:
        reply = await send(client, {"prompt": "a", "suffix": "b"})
        assert reply.status_code == 200
        assert engine.jobs[-1].prompt_ids == model.tokenizer.encode(text)


def test_every_field_has_a_row() -> None:
    """No field of the contract is without a row above, accepted and refused."""
    accepted = {name for body, _ in ACCEPTED for name in body}
    refused = {name for name, _, _ in REFUSED}
    assert CompletionRequest.model_fields.keys() - {"model", "prompt"} <= accepted
    assert CompletionRequest.model_fields.keys() <= refused


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ([1] * 100_000 + ["x"], [1] * 100_000),
        (["a"] * 100_000 + [1], ["a"] * 100_000),
        ([["a"]] * 100_000, [[1]] * 100_000),
        ([[1] * 10] * 10_000 + [[]], [[1] * 10] * 10_000),
    ],
)
def test_wrong_at_length(wrong: list[Any], right: list[Any]) -> None:
    """A long prompt with many mistakes is refused as fast as one without is read; its message is short."""
    wrong_body, right_body = (orjson.dumps({"model": "m", "prompt": prompt}) for prompt in (wrong, right))

    def refused() -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            parse_request(wrong_body)
        return caught.value

    assert cost_s(refused) < 5 * cost_s(lambda: parse_request(right_body))
    assert len(refused().message) < 400
