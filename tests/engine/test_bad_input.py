"""Bad input by the hundred: never a 5xx, never a reply outside the contract, never a dead engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from tests.engine.conftest import KEYS, Started
from tests.serving import CAPITAL, SMOL, TINY, VOCAB_SIZE, Client

pytestmark = pytest.mark.engine

# The same inputs in every run: a failure is then the fault of the change, not of the day.
HUNDREDS = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), max_examples=150
)
CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
FIELDS = [
    "model", "prompt", "max_tokens", "stream", "stream_options", "n", "best_of", "seed",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "stop", "temperature", "top_p", "top_k",
    "min_p", "logit_bias", "logprobs", "echo", "ignore_eos", "min_tokens", "stop_token_ids",
    "skip_special_tokens", "include_stop_str_in_output", "truncate_prompt_tokens", "user", "suffix",
    "unknown",
]  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
# Values that are right for some field and wrong for the others, and the edges that break servers.
near_misses = st.sampled_from(
    [
        None, True, False, 0, 1, 2, 3, 5, -1, 0.5, 1.0, 1e-300, 1e300, -0.0, 2**31, 2**53 + 1, 2**63,
        "", "a", "5", "\0", "\ud800", "🦊" * 9, "x" * 5000, [], [[]], [1], [[1, 2], [3]], ["a", "b"],
        ["a"] * 5, [0], [VOCAB_SIZE - 1], [VOCAB_SIZE], [-1], [2**31], [5] * 256, [1, "a"], [None], {},
        {"1": 1}, {"1": -100}, {"a": 1}, {"-1": 1}, {"99999999999999999999": 1}, {"1": None},
        {"include_usage": True}, {"include_usage": 1},
    ]
)  # fmt: skip
bodies = st.fixed_dictionaries(
    {"model": st.just(TINY), "prompt": st.sampled_from([CAPITAL, [5, 6], ["a", "b"], ""])},
    optional={name: near_misses | json_values for name in FIELDS if name not in ("model", "prompt")},
)
one_wrong = st.tuples(st.sampled_from(FIELDS), near_misses | json_values).map(
    lambda pair: {"model": TINY, "prompt": CAPITAL, "max_tokens": 3, pair[0]: pair[1]}
)


@pytest.fixture(scope="module", autouse=True)
def _alive_afterwards(client: Client) -> Any:
    """Whatever came, both engines answer as before, nothing is left running, and none was started again."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "logprobs": 1}
    before = [client.choice(model=model, **asked) for model in (SMOL, TINY)]
    yield
    assert [client.choice(model=model, **asked) for model in (SMOL, TINY)] == before
    for model in (SMOL, TINY):
        assert client.running(model) == 0
        assert client.metric(f'verbatim_engine_restarts{{model="{model}"}}') == 0


def assert_answered(client: Client, body: bytes) -> None:
    """A reply, a stream, or a refusal in the envelope."""
    response = client.post("/v1/completions", content=body)
    assert response.status_code in (200, 400, 404, 413), (body[:500], response.text)
    if response.status_code == 200:
        assert response.headers["content-type"].startswith(("application/json", "text/event-stream"))
        assert '"code":5' not in response.text
    else:
        assert response.json()["code"] == response.status_code
        assert response.json()["message"]


@HUNDREDS
@given(one_wrong)
def test_one_wrong_field(client: Client, body: dict[str, Any]) -> None:
    """A good request with one field of any value."""
    assert_answered(client, json.dumps(body).encode())


@HUNDREDS
@given(bodies)
def test_any_fields_together(client: Client, body: dict[str, Any]) -> None:
    """Many fields of any values."""
    assert_answered(client, json.dumps(body).encode())


@HUNDREDS
@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(client: Client, body: bytes) -> None:
    """Bytes that are no request, JSON or not."""
    assert_answered(client, body)


@HUNDREDS
@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_damaged_request(client: Client, place: int, damage: bytes) -> None:
    """A good request with some bytes overwritten."""
    body = json.dumps(
        {
            "model": TINY,
            "prompt": CAPITAL,
            "max_tokens": 3,
            "logit_bias": {"7": 1},
            "stop": ["a"],
            "n": 2,
            "top_k": 3,
        }
    ).encode()
    place %= len(body)
    assert_answered(client, body[:place] + damage + body[place + len(damage) :])


@pytest.mark.parametrize("penalty", [5e-324, 1e-38, 2.0])
def test_a_penalty_at_its_end(client: Client, penalty: float) -> None:
    """What is 0 in float32 makes no logit NaN."""
    body = {"model": TINY, "prompt": "", "max_tokens": 4, "repetition_penalty": penalty, "logprobs": 0}
    for allowed in range(0, 60, 3):
        more = {"allowed_token_ids": [allowed], "logprob_token_ids": [allowed]}
        assert client.post("/v3/openai/completions", json=body | more).status_code == 200


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_deeply_nested_json(client: Client, depth: int) -> None:
    """A parser that recurses would take the server down."""
    for value in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        assert_answered(client, b'{"model":"tests/tiny-llama","prompt":"a","user":' + value + b"}")


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_openapi_says_the_truth(started: Started, mode: schemathesis.GenerationMode) -> None:
    """Right and wrong requests made from /openapi.json: status, content type and body are as it says."""
    schema = schemathesis.openapi.from_url(started.url + "/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode is schemathesis.GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing about it can be wrong

        @settings(HUNDREDS, max_examples=100 if operation.path.endswith("completions") else 8)
        @given(operation.as_strategy(generation_mode=mode))
        def answers_as_described(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict) and "model" in case.body and case.method == "POST":
                case.body["model"] = TINY  # the name of a model that is there is no matter of chance
            headers = {"authorization": f"Bearer {KEYS['alice']}"}
            case.call_and_validate(checks=CHECKS, headers=headers, timeout=60)

        answers_as_described()
