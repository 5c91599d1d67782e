"""The kinds of request: temperature, and the arguments that ask for something of ours."""

from __future__ import annotations

from typing import Any

ALL = {
    "logit_bias": {7: 2.0},
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.3,
    "min_p": 0.05,
    "num_output_before": 2,
}
NEUTRAL = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "min_p": 0.0}

KINDS: dict[str, tuple[float, dict[str, Any]]] = {
    "plain": (1.0, {}),
    "neutral": (1.0, NEUTRAL),
    "repetition": (1.0, {"repetition_penalty": 1.2}),
    "frequency": (1.0, {"frequency_penalty": 0.5}),
    "presence": (1.0, {"presence_penalty": -0.5}),
    "bias": (1.0, {"logit_bias": {5: 1.5, 6: -100.0}}),
    "long bias": (1.0, {"logit_bias": dict.fromkeys(range(3000), -1.0)}),
    "min_p": (1.0, {"min_p": 0.1}),
    "greedy min_p": (0.0, {"min_p": 0.1}),
    "all": (1.0, ALL),
}
