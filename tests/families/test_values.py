"""Every family's numbers against Hugging Face's own forward pass of the same weights.

Largest absolute difference measured, in nats: 0.000004 (Llama 2), 0.000001 to 0.000003 (the others). A soft
cap or a scaling that is left out costs whole nats. (float32, 2 cores of a Xeon with AMX, vLLM 0.32.0, torch
2.13.0, 2026-11-26.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.conftest import Model
from tests.serving import ON_GPU

Scored = tuple[dict[str, Any], np.ndarray]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

# Longer than the sliding windows.
TEXT = "The capital of France is Paris, naïve 🦊 日本語. Once upon a time there was a little robot, and 1984."
TOLERANCE = 2e-3 if ON_GPU else 2e-5  # five times that; on a GPU as in tests/engine/test_logprobs_hf.py


@pytest.fixture(scope="module")
def scored(model: Model) -> Scored:
    """A reply that echoes the text and goes on greedily: its logprobs, and the forward pass of its ids."""
    choice = model.choice(prompt=TEXT, echo=True, logprobs=5, max_tokens=16, temperature=0, ignore_eos=True)
    logprobs = choice["logprobs"]
    logprobs["ids"] = [model.id_of[name] for name in logprobs["tokens"]]
    return logprobs, model.reference(logprobs["ids"])


def test_prompt_has_the_forward_passes_values(scored: Scored) -> None:
    """Each token's log-probability but the first's, of prompt and completion."""
    logprobs, rows = scored
    first, *measured = logprobs["token_logprobs"]
    expected = rows[np.arange(len(rows) - 1), logprobs["ids"][1:]]
    assert first is None
    assert np.abs(np.array(measured) - expected).max() < TOLERANCE


def test_likeliest_have_the_forward_passes_values(scored: Scored) -> None:
    """The five of top_logprobs at every position."""
    logprobs, rows = scored
    for top, row in zip(logprobs["top_logprobs"][1:], rows[:-1], strict=True):
        measured = sorted(top.values())[-5:]
        assert np.abs(np.array(measured) - np.sort(row)[-5:]).max() < TOLERANCE


def test_greedy_tokens_are_the_forward_passes(scored: Scored) -> None:
    """The completion's tokens are those that the forward pass finds likeliest."""
    logprobs, rows = scored
    assert logprobs["ids"][-16:] == rows[-17:-1].argmax(-1).tolist()
