"""best_of with paused candidates on the real engine, in float32: the choices of an engine without pauses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_adapters import ADAPTERS, make_adapter
from tests.serving import CAPITAL_IDS, ON_GPU, TINY, Client, Server, serving, tiny_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.skipif(ON_GPU, reason="vLLM's kernels for adapters take no float32 there"),
]

WITHOUT, PAUSING = TINY, "tests/tiny-pausing"
SETTINGS = {WITHOUT: {"give_up": False}, PAUSING: {"pause": True}}
BEST_OF = 6
FIELDS: dict[str, dict[str, Any]] = {
    "drawn": {},
    "several choices": {"n": 2},
    "penalties": {"repetition_penalty": 1.5, "frequency_penalty": 0.7, "presence_penalty": 0.3},
    "filters": {"top_k": 50, "top_p": 0.9, "min_p": 0.01},
    "stop": {"stop": [" the", "e"], "min_tokens": 70},
    "grammar": {"structured_outputs": {"regex": "([a-d]{2} ){30,40}end"}, "ignore_eos": None},
    "logprobs": {"logprobs": 2, "echo": True},
    "bans": {"bad_words": ["the", " of"], "logit_bias": {"7042": 3}},
    "two prompts": {"prompt": [CAPITAL_IDS, [*range(500, 640)]]},
}


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("pauses")
    make_adapter(place / "adapter", tiny_path, 1, **ADAPTERS["plain"])
    models = [
        tiny_model(tiny_path, best_of=best_of, adapters=[{"id": f"{name}/a", "path": str(place / "adapter")}])
        | {"id": name}
        for name, best_of in SETTINGS.items()
    ]
    with serving(place, {"models": models}) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url(), "any") as client:
        yield client


def completed(client: Client, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    asked = {"n": 1, "best_of": BEST_OF, "seed": 5, "temperature": 1.2, "max_tokens": 100, "ignore_eos": True}
    return client.complete(model=model, **{"prompt": CAPITAL_IDS, **asked, **fields})


def num_started(client: Client) -> float:
    """First tokens of the pausing engine: one of each candidate, and one more if it was continued."""
    return client.metric(f'vllm:time_to_first_token_seconds_count{{engine="0",model_name="{PAUSING}"}}')


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for one, other in zip(found["choices"], expected["choices"], strict=True):
        shown, wanted = one.pop("logprobs"), other.pop("logprobs")
        assert one == other
        if wanted is not None:
            assert shown["tokens"] == wanted["tokens"]
            values, others = shown["token_logprobs"], wanted["token_logprobs"]
            assert values[0] is others[0] is None
            assert values[1:] == pytest.approx(others[1:], abs=1e-4)


@pytest.mark.parametrize("adapter", ["", "/a"])
@pytest.mark.parametrize("name", FIELDS)
def test_the_choices_are_the_same(client: Client, name: str, adapter: str) -> None:
    """Whatever acts on the text, with an adapter and without; some candidates did pause. A busy server may
    hear of many steps at once, too late for a pause: then another seed."""
    num_prompts, num_paused = 2 if name == "two prompts" else 1, 0.0
    for seed in range(5, 15):
        fields, before = FIELDS[name] | {"seed": seed}, num_started(client)
        found = completed(client, PAUSING + adapter, fields)
        num_paused = num_started(client) - before - BEST_OF * num_prompts
        expected = completed(client, WITHOUT + adapter, fields)
        assert found["usage"]["completion_tokens"] <= expected["usage"]["completion_tokens"]
        assert_alike(found, expected)
        if num_paused > 0:
            break
    assert num_paused > 0


def test_many_at_once(server: Server) -> None:
    """Requests that pause candidates beside each other have the choices that they have alone."""
    with Client(server.url(), "any") as client, ThreadPoolExecutor(8) as pool:
        alone = [completed(client, WITHOUT, {"seed": seed}) for seed in range(8)]
        together = list(pool.map(lambda seed: completed(client, PAUSING, {"seed": seed}), range(8)))
    for found, expected in zip(together, alone, strict=True):
        assert_alike(found, expected)
