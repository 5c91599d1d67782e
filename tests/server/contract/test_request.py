"""contract.md, "Request": a row for values of each field that are accepted, and refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

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

ENGINE = Engine()
INT64 = 2**63


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, ENGINE))) as client:
        yield client


async def send(client: httpx.AsyncClient, body: dict[str, Any] | bytes) -> httpx.Response:
    """A short request, with these fields instead of its own."""
    if isinstance(body, dict):
        body = orjson.dumps({"model": "m", "prompt": "hello", "max_tokens": 2} | body)
    return await client.post(URL, content=body)


# fields of the request -> what the engine is told
ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"max_tokens": 2, "n": 1, "best_of": 1, "seed": None, "temperature": 1.0, "top_p": 1.0, "top_k": 0}),
    ({}, {"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0.0}),
    ({}, {"stop": (), "include_stop": True, "logit_bias": {}, "num_logprobs": None, "echo": False}),
    ({}, {"ignore_eos": False, "min_tokens": 0, "stop_token_ids": (), "skip_special_tokens": True}),
    ({"max_tokens": None}, {"max_tokens": 16}),
    ({"max_tokens": 1}, {"max_tokens": 1}),
    ({"stream": True}, {}),
    ({"stream": False}, {}),
    ({"stream": None}, {}),
    ({"stream_options": None}, {}),
    ({"stream": True, "stream_options": {}}, {}),
    ({"stream": True, "stream_options": {"include_usage": None}}, {}),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, {}),
    ({"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}, {}),
    ({"stream": True, "stream_options": {"include_usage": False, "more": 1}}, {}),
    ({"n": 1}, {"n": 1, "best_of": 1}),
    ({"n": 128, "max_tokens": 1}, {"n": 128, "best_of": 128}),
    ({"n": None, "best_of": None}, {"n": 1, "best_of": 1}),
    ({"n": 2, "best_of": 2, "stream": True}, {"n": 2, "best_of": 2}),
    ({"n": 2, "best_of": 3}, {"n": 2, "best_of": 3}),
    ({"best_of": 128, "max_tokens": 1}, {"n": 1, "best_of": 128}),
    ({"seed": 0}, {"seed": 0}),
    ({"seed": INT64 - 1}, {"seed": INT64 - 1}),
    ({"seed": -INT64}, {"seed": -INT64}),
    ({"frequency_penalty": -2}, {"frequency_penalty": -2.0}),
    ({"frequency_penalty": 2.0}, {"frequency_penalty": 2.0}),
    ({"presence_penalty": -2.0}, {"presence_penalty": -2.0}),
    ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
    ({"repetition_penalty": 1e-9}, {"repetition_penalty": 1e-9}),
    ({"repetition_penalty": 2}, {"repetition_penalty": 2.0}),
    ({"stop": None}, {"stop": ()}),
    ({"stop": []}, {"stop": ()}),
    ({"stop": "a"}, {"stop": ("a",)}),
    ({"stop": ["a", "b", "c", "\n\n"]}, {"stop": ("a", "b", "c", "\n\n")}),
    ({"include_stop_str_in_output": False}, {"include_stop": False}),
    ({"include_stop_str_in_output": True}, {"include_stop": True}),
    ({"temperature": 0}, {"temperature": 0.0}),
    ({"temperature": 2}, {"temperature": 2.0}),
    ({"temperature": 0, "n": 2}, {"temperature": 0.0, "n": 2}),
    ({"temperature": None}, {"temperature": 1.0}),
    ({"top_p": 1e-9}, {"top_p": 1e-9}),
    ({"top_p": 1}, {"top_p": 1.0}),
    ({"top_k": 1}, {"top_k": 1}),
    ({"top_k": 128}, {"top_k": 128}),
    ({"top_k": 0}, {"top_k": 0}),
    ({"top_k": -1}, {"top_k": 0}),
    ({"min_p": 0}, {"min_p": 0.0}),
    ({"min_p": 1}, {"min_p": 1.0}),
    ({"logit_bias": {}}, {"logit_bias": {}}),
    (
        {"logit_bias": {"0": -100, str(VOCAB_SIZE - 1): 100}},
        {"logit_bias": {0: -100.0, VOCAB_SIZE - 1: 100.0}},
    ),
    ({"logit_bias": {"7": 0.5}}, {"logit_bias": {7: 0.5}}),
    ({"logprobs": 0}, {"num_logprobs": 0}),
    ({"logprobs": 5}, {"num_logprobs": 5}),
    ({"echo": True}, {"echo": True}),
    ({"ignore_eos": True}, {"ignore_eos": True}),
    ({"min_tokens": 2}, {"min_tokens": 2}),
    ({"stop_token_ids": []}, {"stop_token_ids": ()}),
    ({"stop_token_ids": [5, 5, VOCAB_SIZE - 1]}, {"stop_token_ids": (5, VOCAB_SIZE - 1)}),
    ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
    ({"truncate_prompt_tokens": 1}, {"truncate_prompt_tokens": 1}),
    ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": -1}),
    ({"user": "someone"}, {}),
    ({"suffix": None}, {}),
    ({"suffix": ""}, {}),
    ({"functions": [], "model_config": 1, "__class__": {}, "": None}, {}),
]


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


NUMBERS: dict[str, list[tuple[Any, str]]] = {  # each out of its range, and the range in words
    "max_tokens": [(-1, "0 or more")],
    "n": [(value, "between 1 and 128") for value in (0, -1, 129)],
    "best_of": [(value, "between n and 128") for value in (0, 129)],
    "seed": [(value, "within 64 bits") for value in (INT64, -INT64 - 1, 2**64)],
    "frequency_penalty": [(value, "between -2 and 2") for value in (-2.1, 2.1)],
    "presence_penalty": [(value, "between -2 and 2") for value in (-2.1, 2.1)],
    "repetition_penalty": [(value, "greater than 0 and at most 2") for value in (0, -1, 2.1)],
    "temperature": [(value, "between 0 and 2") for value in (-0.1, 9)],
    "top_p": [(value, "greater than 0 and at most 1") for value in (0, -0.1, 1.1)],
    "top_k": [(value, "between 1 and 128") for value in (-2, 129)],
    "min_p": [(value, "between 0 and 1") for value in (-0.1, 1.1)],
    "logprobs": [(value, "between 0 and 5") for value in (-1, 6)],
    "min_tokens": [(value, "between 0 and max_tokens") for value in (-1, 3)],
    "truncate_prompt_tokens": [(value, "1 or more") for value in (0, -2)],
}
INTEGERS = {"max_tokens", "n", "best_of", "seed", "top_k", "logprobs", "min_tokens", "truncate_prompt_tokens"}
BOOLEANS = ("stream", "echo", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output")

Row = tuple[str, Any, str]  # field, value, words of the message


def rows(fields: Iterable[str], values: list[Any], words: str) -> list[Row]:
    return [(field, value, words) for field in fields for value in values]


OUT_OF_RANGE: list[Row] = [
    (field, value, words) for field, refused in NUMBERS.items() for value, words in refused
]
WRONG_TYPE = [
    *rows(sorted(INTEGERS), ["1", True, 1.5, [1], {}], "must be an integer"),
    *rows(sorted(NUMBERS.keys() - INTEGERS), ["1", True, [1]], "must be a number"),
    *rows(BOOLEANS, ["true", 1, 0, []], "must be true or false"),
    *rows(["model", "user", "suffix"], [1, True, ["m"]], "must be a string"),
    *rows(["prompt"], [1, 1.5, True, {}], "must be a string, an array of strings"),
    *rows(["prompt"], [[], [[]], [[1], []], [[], [1]]], "none of the arrays empty"),
    *rows(["prompt"], [["a", 1], [1, "a"], [1, [1]], [[1], "a"], [[["a"]]]], "array of token ids"),
    *rows(["prompt"], [[1.5], [True], [-1], [[-1]], [None], [["a"]]], "array of token ids"),
    *rows(["stop"], [1, True, [1], ["a", None], {}], "must be a string or an array of strings"),
    *rows(["logit_bias"], [[], "a", 1, True], "must be an object from token ids"),
    *rows(["logit_bias"], [{"5": "1"}, {"5": True}, {"5": None}, {"5": []}], 'logit_bias["5"]'),
    *rows(["stop_token_ids"], [1, ["1"], [True], [-1], [1.5]], "must be an array of token ids"),
    *rows(["stream_options"], [1, True, [], "a"], "must be an object"),
]
NO_GOOD: list[Row] = [
    ("logit_bias", {"5": 100.5}, 'logit_bias["5"] (current value: 100.5) must be between -100 and 100'),
    ("logit_bias", {"5": -101}, "must be between -100 and 100"),
    *rows(["logit_bias"], [{key: 1} for key in (str(VOCAB_SIZE), "-1")], f"between 0 and {VOCAB_SIZE - 1}"),
    *rows(["logit_bias"], [{key: 1} for key in ("", "05", "1.0", " 5", "٥", "9" * 5000)], "decimal strings"),
    ("stop_token_ids", [VOCAB_SIZE], f"between 0 and {VOCAB_SIZE - 1}"),
    ("stop", ["a"] * 5, "at most 4"),
    ("stop", "", "must not contain an empty string"),
    ("stop", ["a", ""], "must not contain an empty string"),
    ("suffix", "x", "has no fill-in-the-middle template"),
    ("prompt", [VOCAB_SIZE], f"token id {VOCAB_SIZE} at position 0"),
    ("prompt", [[1], [2, 2**62]], f"token id {2**62} at position 1"),
    ("prompt", [2**64], "prompt"),
    ("stream_options", {"include_usage": True}, "must be null unless stream is true"),
    ("stream_options", {}, "must be null unless stream is true"),
]


@pytest.mark.parametrize(
    ("field", "value", "words"), [*OUT_OF_RANGE, *WRONG_TYPE, *NO_GOOD], ids=lambda v: str(v)[:40]
)
async def test_refused(client: httpx.AsyncClient, field: str, value: Any, words: str) -> None:
    """A value that breaks its rule is a 400 that names field and rule, and the engine never sees it."""
    before = len(ENGINE.jobs)
    reply = await client.post(URL, json={"model": "m", "prompt": "hello", "max_tokens": 2} | {field: value})
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


TOGETHER = [
    ({"n": 3, "best_of": 2}, "best_of", "best_of (current value: 2) must be between n (3) and 128"),
    ({"best_of": 2, "stream": True}, "best_of", "must be n (1) in a stream"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options",
        "stream_options.include_usage",
    ),
    ({"max_tokens": None, "min_tokens": 17}, "min_tokens", "max_tokens (16)"),
    ({"prompt": [[1]] * 40, "n": 128}, "prompt", "40 prompts × 128 candidates"),
    ({"prompt": [[1]] * 1025}, "prompt", "at most 1024 prompts"),
    ({"model": None}, "model", "model is required"),
    ({"prompt": None}, "prompt", "prompt is required"),
    ({"prompt": [5], "suffix": "x"}, "suffix", "suffix"),
]


@pytest.mark.parametrize(("body", "field", "words"), TOGETHER, ids=str)
async def test_refused_together(
    client: httpx.AsyncClient, body: dict[str, Any], field: str, words: str
) -> None:
    """Fields that do not go together, or that are missing, are a 400 that names the one to change."""
    reply = await send(client, body)
    assert reply.status_code == 400
    assert reply.json()["metadata"] == {"field": field}
    assert words in reply.json()["message"]


CONTEXT = [
    ({"prompt": [5] * 60, "max_tokens": 5}, 65, 60, 5, "max_tokens"),
    ({"prompt": [5] * 65, "max_tokens": 1}, 66, 65, 1, "prompt"),
    ({"prompt": [5], "max_tokens": 2**63}, 2**63 + 1, 1, 2**63, "max_tokens"),
]


@pytest.mark.parametrize(("body", "total", "prompt", "completion", "field"), CONTEXT)
async def test_context(
    client: httpx.AsyncClient, body: dict[str, Any], total: int, prompt: int, completion: int, field: str
) -> None:
    """More than the context holds is a 400 in the words that clients look for; exactly as much is not."""
    reply = await send(client, body)
    assert (reply.status_code, reply.json()["metadata"]["field"]) == (400, field)
    assert (
        f"This model's maximum context length is {CONTEXT_SIZE} tokens, however you requested {total} tokens "
        f"({prompt} in your prompt; {completion} for the completion)."
    ) in reply.json()["message"]


BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"[" * 5000,
    b'{"model": "m", "prompt": "\\ud800"}',
    b'{"model": "m", "prompt": "a", "temperature": NaN}',
    b'{"model": "m", "prompt": "a", "temperature": Infinity}',
    b'{"model": "m", "prompt": "a", "temperature": 1e999}',
    b'{"model": "m", "prompt": "a", "anything": -1e999}',
    b'{"model": "m", "prompt": "a", "temperature": ' + b"[" * 900 + b"]" * 900 + b"}",
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body)[:60])
async def test_bodies(client: httpx.AsyncClient, body: bytes) -> None:
    """What is not a JSON object of finite numbers is a 400, whatever it is."""
    reply = await send(client, body)
    assert (reply.status_code, reply.json()["reason"]) == (400, "INVALID_REQUEST_BODY")


async def test_any_content_type(client: httpx.AsyncClient) -> None:
    """The content type is not looked at: the body is JSON or it is not."""
    body = b'{"model": "m", "prompt": "a"}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = await client.post(URL, content=body, headers={"content-type": content_type})
        assert reply.status_code == 200


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
    refused = {name for name, _, _ in [*OUT_OF_RANGE, *WRONG_TYPE, *NO_GOOD]}
    assert CompletionRequest.model_fields.keys() - {"model", "prompt"} <= accepted
    assert CompletionRequest.model_fields.keys() <= refused


@pytest.mark.parametrize(
    "prompt", [[1] * 100_000 + ["x"], ["a"] * 100_000 + [1], [["a"]] * 100_000, [[1] * 10] * 10_000 + [[]]]
)
@pytest.mark.timeout(2)
def test_wrong_at_length(prompt: list[Any]) -> None:
    """A long prompt with many mistakes is refused as fast as with one: its message is short too."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(orjson.dumps({"model": "m", "prompt": prompt}))
    assert len(caught.value.message) < 400
