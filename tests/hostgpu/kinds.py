"""The kinds of request: the arguments that ask for something of ours. vLLM's temperature is 0 in each."""

from __future__ import annotations

from typing import Any

ALL = {
    "logit_bias": {7: 2.0},
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.3,
    "min_p": 0.05,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.9,
    "seed": 2**63 - 1,
    "num_output_before": 2,
}
NEUTRAL = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "min_p": 0.0}

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "neutral": NEUTRAL,
    "repetition": {"repetition_penalty": 1.2},
    "frequency": {"frequency_penalty": 0.5},
    "presence": {"presence_penalty": -0.5},
    "bias": {"logit_bias": {5: 1.5, 6: -100.0}},
    "long bias": {"logit_bias": dict.fromkeys(range(3000), -1.0)},
    "allowed": {"allowed_token_ids": [5, 6, 7]},
    "bad words": {"bad_words": [[5], [6, 7]]},
    "drawn": {"seed": 1},
    "min_p": {"min_p": 0.1, "seed": 2},
    "top_k": {"top_k": 5, "seed": 3},
    "top_p": {"top_p": 0.5, "temperature": 0.5, "seed": 4},
    "all": ALL,
}
