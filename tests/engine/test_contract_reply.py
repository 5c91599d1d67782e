"""contract.md's reply: its shape, its log-probabilities, the models list and the headers, over HTTP."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.serving import CAPITAL, CAPITAL_IDS, CONTEXT_SIZE, SMOL, TINY, Client, as_bytes, as_text

pytestmark = pytest.mark.engine

PREFIXES = ["/v3/openai", "/v3/openai/v1", "/openai/v1", "/openai", "/v1"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
ASKED: list[dict[str, Any]] = [
    {"logprobs": 0, **GREEDY},
    {"logprobs": 5, **GREEDY},
    {"logprobs": 3, "temperature": 2, "max_tokens": 30, "seed": 1},
    {"logprobs": 2, "model": TINY, "temperature": 1, "max_tokens": 200, "seed": 2},
    {"logprobs": 5, "echo": True, "prompt": "naïve 🦊 日本", "temperature": 1, "max_tokens": 20, "seed": 3},
    {"logprobs": 1, "echo": True, "max_tokens": 0},
    {"logprobs": 1, "stop": "ris.", **GREEDY},
    {"logprobs": 1, "logit_bias": {"7042": -100}, "repetition_penalty": 1.5, "min_p": 0.1, **GREEDY},
]


def test_reply_has_the_documented_keys_and_no_other(client: Client) -> None:
    """An `error` key, even null, is an error to two official SDKs."""
    reply = client.complete(**GREEDY)
    assert set(reply) - {"system_fingerprint"} == {"id", "object", "created", "model", "choices", "usage"}
    assert reply["object"] == "text_completion"
    assert re.fullmatch("[0-9a-f]{32}", reply["id"])
    assert abs(reply["created"] - time.time()) < 60
    assert reply["model"] == SMOL
    assert reply["choices"] == [
        {"index": 0, "text": " Paris.\n\nThe answer", "logprobs": None, "finish_reason": "length"}
    ]
    assert reply["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_ids_of_replies_differ(client: Client) -> None:
    """Also those of requests that bring the same x-request-id."""
    replies = [client.complete(max_tokens=1) for _ in range(3)]
    assert len({reply["id"] for reply in replies}) == 3


def test_choices_are_ordered_by_prompt_and_rank(client: Client) -> None:
    """index = prompt number × n + rank, and each prompt counts once in the usage."""
    asked: dict[str, Any] = {"model": TINY, "seed": 1, "temperature": 1, "max_tokens": 4, "ignore_eos": True}
    prompts = [[5, 6, 7], [8]]
    reply = client.complete(prompt=prompts, n=2, echo=True, **asked)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    echoed = [client.choice(prompt=ids, echo=True, max_tokens=0)["text"] for ids in prompts]
    for choice, start in zip(reply["choices"], [echoed[0], echoed[0], echoed[1], echoed[1]], strict=True):
        assert choice["text"].startswith(start)
    assert reply["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}


def test_best_of_ranks_within_each_prompt(client: Client) -> None:
    """Two prompts, the best two of four for each."""
    asked: dict[str, Any] = {"model": TINY, "prompt": [[5, 6], [7]], "temperature": 1.5, "logprobs": 0}
    reply = client.complete(n=2, best_of=4, max_tokens=4, ignore_eos=True, **asked)
    means = [sum(choice["logprobs"]["token_logprobs"]) / 4 for choice in reply["choices"]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert means[0] >= means[1]
    assert means[2] >= means[3]
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 32, "total_tokens": 35}


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_sampled_token_has_one_value_in_both_places(client: Client, asked: dict[str, Any]) -> None:
    """top_logprobs holds the k likeliest and the sampled token, whose float is that of token_logprobs."""
    logprobs = client.choice(**asked)["logprobs"]
    first = 1 if asked.get("echo") else 0
    if first:
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
    values, tops = logprobs["token_logprobs"][first:], logprobs["top_logprobs"][first:]
    for token, value, top in zip(logprobs["tokens"][first:], values, tops, strict=True):
        assert top[token] == value
        assert value <= 0
        assert len(top) in (max(1, asked["logprobs"]), asked["logprobs"] + 1)
        assert len([other for other in top.values() if other > value]) <= asked["logprobs"]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_tokens_add_up_to_the_text(client: Client, asked: dict[str, Any]) -> None:
    """concat(tokens) == text, where bytes: tokens stand for their bytes; four arrays of one length."""
    choice = client.choice(**asked)
    logprobs = choice["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(array) for array in logprobs.values()}) == 1
    text = as_text(logprobs["tokens"])
    if choice["finish_reason"] == "stop":
        assert text.startswith(choice["text"])  # stop trimming aside
    else:
        assert text == choice["text"]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_text_offset_counts_characters_of_the_returned_text(client: Client, asked: dict[str, Any]) -> None:
    """From 0, the echoed prompt included; a token in the midst of a character has that character's place."""
    choice = client.choice(**asked)
    before = b""
    for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
        complete = before.decode("utf-8", "ignore") if _valid(before) else None
        if complete is not None:
            assert offset == len(complete)
            is_end = offset == len(choice["text"]) and choice["finish_reason"] == "stop"
            assert choice["text"][offset:].startswith(token) or token.startswith("bytes:") or is_end
        before += as_bytes(token)


def test_tokens_that_are_no_text_are_spelled_in_bytes(client: Client) -> None:
    """So two different tokens never share a key; the spelling is OpenAI's."""
    logprobs = client.choice(prompt="🦊", echo=True, max_tokens=0, logprobs=5)["logprobs"]
    assert all(re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", token) for token in logprobs["tokens"])
    assert b"".join(map(as_bytes, logprobs["tokens"])) == "🦊".encode()


def test_logprobs_zero_shows_the_sampled_tokens_alone(client: Client) -> None:
    """0 is not the same as no logprobs."""
    logprobs = client.choice(logprobs=0, **GREEDY)["logprobs"]
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    assert logprobs["top_logprobs"] == [{token: value} for token, value in zip(tokens, values, strict=True)]


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 2},
        {"top_k": 2},
        {"logit_bias": {"7042": -100}},
        {"repetition_penalty": 2},
        {"top_p": 0.1},
    ],
    ids=str,
)
def test_logprobs_are_the_raw_models(client: Client, changed: dict[str, Any]) -> None:
    """No transform of the sampling changes what the model is said to have thought."""
    raw = client.choice(max_tokens=1, logprobs=5, temperature=0)["logprobs"]["top_logprobs"][0]
    seen = client.choice(**{"max_tokens": 1, "logprobs": 5, "temperature": 0} | changed)["logprobs"]
    assert raw.items() <= seen["top_logprobs"][0].items()


def test_echo_puts_the_prompt_first(client: Client) -> None:
    """As the client wrote it; what follows is what follows without echo, and the usage is the same."""
    plain, echoed = client.complete(**GREEDY), client.complete(echo=True, **GREEDY)
    assert echoed["choices"][0]["text"] == CAPITAL + plain["choices"][0]["text"]
    assert echoed["usage"] == plain["usage"]


def test_echo_covers_the_prompt_in_logprobs(client: Client) -> None:
    """One entry per token of prompt and completion, none for the very first."""
    logprobs = client.choice(echo=True, logprobs=1, **GREEDY)["logprobs"]
    assert logprobs["tokens"][:5] == ["The", " capital", " of", " France", " is"]
    assert [value is None for value in logprobs["token_logprobs"]] == [True] + [False] * 10
    assert logprobs["text_offset"][:6] == [0, 3, 11, 14, 21, 24]


def test_max_tokens_zero_returns_the_prompt_or_nothing(client: Client) -> None:
    """With echo the prompt, without it an empty text; nothing is generated."""
    for echo, text in ((True, CAPITAL), (False, "")):
        reply = client.complete(max_tokens=0, echo=echo)
        assert reply["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
        assert reply["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_scored_prompt_may_fill_the_context(client: Client) -> None:
    """echo, logprobs and max_tokens 0 with a prompt of the whole context."""
    ids = [(7 * k) % 1000 + 10 for k in range(CONTEXT_SIZE)]
    reply = client.complete(model=TINY, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    assert len(reply["choices"][0]["logprobs"]["tokens"]) == CONTEXT_SIZE
    assert reply["usage"]["total_tokens"] == CONTEXT_SIZE


def test_left_out_stop_sequence_keeps_its_tokens_in_logprobs(client: Client) -> None:
    """The text is trimmed, the arrays have every generated token and every offset lies in the text."""
    choice = client.choice(stop="ris.", include_stop_str_in_output=False, logprobs=1, **GREEDY)
    assert choice["text"] == " Pa"
    assert choice["logprobs"]["tokens"] == [" Paris", "."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_interchangeable(client: Client, prefix: str) -> None:
    """Completions, the models list and each model are under all five."""
    body = {"model": SMOL, "prompt": CAPITAL, "max_tokens": 1, "temperature": 0}
    assert client.post(f"{prefix}/completions", json=body).json()["choices"][0]["text"] == " Paris"
    assert client.get(f"{prefix}/models").status_code == 200
    assert client.get(f"{prefix}/models/{TINY}").status_code == 200


def test_models_are_listed_with_both_services_fields(client: Client) -> None:
    """The hosted service's fields and OpenAI's together."""
    listed = client.get("/v3/openai/models").json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == [SMOL, TINY]
    entry = client.get(f"/v3/openai/models/{TINY}").json()
    assert entry == listed["data"][1]
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


def test_unknown_model_of_the_list_is_a_404(client: Client) -> None:
    """As in completions."""
    response = client.get("/v1/models/tests/none")
    assert (response.status_code, response.json()["reason"]) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing", "/v1/completions"])
def test_every_response_has_a_request_id(client: Client, path: str) -> None:
    """Also errors."""
    assert client.get(path).headers["x-request-id"]


def test_clients_own_request_id_is_echoed(client: Client) -> None:
    """If it is at most 128 printable ASCII characters; else the server makes one."""
    for own in ("my-id 7", "x" * 128, "~!"):
        assert client.get("/health", headers={"x-request-id": own}).headers["x-request-id"] == own
    for own in ("x" * 129, "tab\there", "ümlaut".encode()):
        answer = client.get("/health", headers={"x-request-id": own}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", answer)


def _valid(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_prompt_ids_count_as_they_are(client: Client) -> None:
    """No beginning-of-text token is added to ids."""
    assert client.complete(prompt=CAPITAL_IDS, max_tokens=1)["usage"]["prompt_tokens"] == len(CAPITAL_IDS)
