"""lm-evaluation-harness's loglikelihood requests: the exact shape, and what it computes from the reply.

Its client for completions sends context and continuation as token ids, asks for the prompt's log-
probabilities with echo and one token more, and sums those of the continuation: from the context's length up
to the generated token, which it drops. A continuation is greedy where every token's value equals (==) the
largest of its top_logprobs.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import numpy as np
import pytest

from tests.engine.reference import Reference
from tests.engine.test_logprobs_hf import TOLERANCES as FORWARD_PASS
from tests.serving import CAPITAL_IDS, CONTEXT_SIZE, PARIS_ID, SMOL, TINY, Client

pytestmark = pytest.mark.engine

BERLIN_IDS = [10498]
LONG_IDS = [[(11 * k) % 900 + 20 for k in range(60)], [(13 * k) % 900 + 20 for k in range(90)]]
# Per token of the continuation; test_logprobs_hf.py has the measurement behind them.
TOLERANCES = {model: largest for model, (largest, _) in FORWARD_PASS.items()}


def loglikelihoods(
    client: Client, model: str, pairs: list[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Of each (context, continuation): its log-probability, and whether greedy decoding gives it."""
    body = {
        "model": model,
        "prompt": [context + continuation for context, continuation in pairs],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    choices: list[dict[str, Any]] = sorted(response.json()["choices"], key=itemgetter("index"))
    results = []
    for choice, (context, continuation) in zip(choices, pairs, strict=True):
        logprobs = choice["logprobs"]
        values = logprobs["token_logprobs"][len(context) : -1]
        tops = logprobs["top_logprobs"][len(context) : -1]
        assert len(values) == len(continuation)
        greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        results.append((sum(values), greedy))
    return results


@pytest.mark.parametrize("model", [SMOL, TINY])
@pytest.mark.parametrize("split", [1, 3, 59])
def test_loglikelihood_is_the_forward_passes(
    client: Client, references: dict[str, Reference], model: str, split: int
) -> None:
    """Two pairs in one request, as with batch_size 2, wherever the continuation begins."""
    pairs = [(ids[:split], ids[split:]) for ids in LONG_IDS]
    measured = loglikelihoods(client, model, pairs)
    for (value, _), (context, continuation) in zip(measured, pairs, strict=True):
        expected = sum(references[model].scores(context + continuation)[len(context) - 1 :])
        assert abs(value - expected) < TOLERANCES[model] * len(continuation) ** 0.5


def test_greedy_continuation_is_recognized(client: Client, references: dict[str, Reference]) -> None:
    """What the forward pass calls the likeliest token is greedy, anything else is not."""
    assert int(np.argmax(references[SMOL](CAPITAL_IDS)[-1])) == PARIS_ID
    pairs = [(CAPITAL_IDS, [PARIS_ID]), (CAPITAL_IDS, BERLIN_IDS), (CAPITAL_IDS[:2], CAPITAL_IDS[2:3])]
    (paris, first), (berlin, second), (_, third) = loglikelihoods(client, SMOL, pairs)
    assert (first, second, third) == (True, False, True)
    assert paris > berlin


def test_longest_pair_that_the_harness_sends_is_answered(client: Client) -> None:
    """It keeps context and continuation one short of the context length, for the token that it drops."""
    ids = [(7 * k) % 900 + 20 for k in range(CONTEXT_SIZE - 1)]
    ((value, _),) = loglikelihoods(client, TINY, [(ids[:-5], ids[-5:])])
    assert value < 0
