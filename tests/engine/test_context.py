"""The context that an engine is told of is the user's: what vLLM derives from it, and its last position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.text.tokenizer import load_tokenizer
from tests.engine.reference import Reference
from tests.serving import BESIDE_OTHERS, VOCAB_SIZE, Client, serving
from tests.tiny_phi3 import LONG_CONTEXT, SHORT_CONTEXT, make_tiny_phi3

pytestmark = pytest.mark.engine

SHORT, PLAIN, LONG = "short", "short-without-cache", "long"
MODELS: dict[str, dict[str, Any]] = {
    SHORT: {"max_model_len": SHORT_CONTEXT},
    PLAIN: {
        "max_model_len": SHORT_CONTEXT,
        "engine_args": {"enable_prefix_caching": False, "enable_chunked_prefill": False},
    },
    LONG: {"max_model_len": LONG_CONTEXT, "engine_args": {"async_scheduling": True}},
}
TOLERANCE = 1e-4  # nats; the other factors are off by 0.9


@pytest.fixture(scope="module")
def phi3_path(smol_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_phi3(tmp_path_factory.mktemp("models") / "phi3", smol_path)


@pytest.fixture(scope="module")
def phi3(phi3_path: Path) -> Reference:
    return Reference(phi3_path)


@pytest.fixture(scope="module")
def phi3_client(phi3_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    common = {"path": str(phi3_path), "dtype": "float32", "kv_cache_gib": 0.1, **BESIDE_OTHERS}
    models = [{"id": name, **common, **settings} for name, settings in MODELS.items()]
    with serving(tmp_path_factory.mktemp("phi3"), {"models": models}) as server:
        server.wait_ready()
        with Client(server.url(), "any") as client:
            yield client


def ids(length: int, number: int = 0) -> list[int]:
    return [(7 * k * k + 13 + number) % 40_000 for k in range(length)]


def scored(client: Client, model: str, prompt: list[int], **fields: Any) -> list[float]:
    asked = {"max_tokens": 0, "echo": True, "logprobs": 1} | fields
    logprobs = client.choice(model=model, prompt=prompt, ignore_eos=True, **asked)["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    return list(logprobs["token_logprobs"][1:])


@pytest.mark.parametrize(
    ("model", "length"),
    [
        *((SHORT, 2), (SHORT, 3), (SHORT, 100), (SHORT, SHORT_CONTEXT), (PLAIN, SHORT_CONTEXT)),
        *((LONG, SHORT_CONTEXT + 44), (LONG, LONG_CONTEXT)),
    ],
)
def test_a_prompt_up_to_the_whole_context_is_scored(
    phi3_client: Client, phi3: Reference, model: str, length: int
) -> None:
    """As by the forward pass, with the factors for the context that was chosen; also a second time."""
    for _ in range(2):
        measured = scored(phi3_client, model, ids(length))
        np.testing.assert_allclose(measured, phi3.scores(ids(length)), atol=TOLERANCE)


@pytest.mark.parametrize("model", [SHORT, PLAIN])
def test_full_prompts_are_scored_in_company(phi3_client: Client, phi3: Reference, model: str) -> None:
    """Several prompts that fill the context at once, each by each of two candidates."""
    prompts = [ids(SHORT_CONTEXT, number) for number in range(5)]
    asked = {"max_tokens": 0, "echo": True, "logprobs": 0, "n": 2}
    choices = phi3_client.complete(model=model, prompt=prompts, **asked)["choices"]
    for k, choice in enumerate(choices):
        measured = choice["logprobs"]["token_logprobs"][1:]
        np.testing.assert_allclose(measured, phi3.scores(prompts[k // 2]), atol=TOLERANCE)


@pytest.mark.parametrize("model", [SHORT, PLAIN])
@pytest.mark.parametrize("length", [1, 10, SHORT_CONTEXT - 1])
def test_text_may_be_generated_up_to_the_last_position(
    phi3_client: Client, phi3: Reference, smol_path: Path, model: str, length: int
) -> None:
    """Prompt and completion fill the context; every position says what the forward pass does."""
    asked = {"max_tokens": SHORT_CONTEXT - length, "logprobs": 0, "echo": True, "seed": 1}
    choice = phi3_client.choice(model=model, prompt=ids(length), ignore_eos=True, **asked)
    id_of = {name: k for k, name in enumerate(load_tokenizer(smol_path, VOCAB_SIZE).names)}
    whole = [id_of[name] for name in choice["logprobs"]["tokens"]]
    assert (len(whole), choice["finish_reason"]) == (SHORT_CONTEXT, "length")
    measured = choice["logprobs"]["token_logprobs"][1:]
    np.testing.assert_allclose(measured, phi3.scores(whole), atol=TOLERANCE)


@pytest.mark.parametrize("model", [SHORT, LONG])
def test_a_scored_prompt_has_the_likeliest_tokens(phi3_client: Client, phi3: Reference, model: str) -> None:
    """Of its last position too, which the engine has generated."""
    prompt = ids(SHORT_CONTEXT if model == SHORT else LONG_CONTEXT)
    choice = phi3_client.choice(model=model, prompt=prompt, max_tokens=0, echo=True, logprobs=5)
    top, own = choice["logprobs"]["top_logprobs"][-1], choice["logprobs"]["tokens"][-1]
    best = np.sort(phi3(prompt)[-2])[::-1][:5]
    likeliest = sorted((value for name, value in top.items() if name != own), reverse=True)
    np.testing.assert_allclose(likeliest, best, atol=TOLERANCE)
