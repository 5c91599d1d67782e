"""How long an engine's steps take: like a GPU's, depending on the batch; the same for the same seed.

A step computes a token for each running candidate, and a part of the prompts of new ones. So the time to the
first token grows with the prompt, and the time per token with the load, as on an engine with chunked prefill.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from server.config.yamlfile import nearest
from server.errors import ConfigurationError

P99 = 2.326  # standard deviations between a normal distribution's median and its 99th percentile


@dataclass(frozen=True, slots=True)
class Profile:
    """step_s: of a step with one candidate. candidate_s: for each further one. prefill: prompt tokens
    computed per second. chunk: the most of them in one step. jitter: standard deviation of the logarithm of a
    step's time."""

    step_s: float = 0.0
    candidate_s: float = 0.0
    prefill: float = math.inf
    chunk: int = 8192
    jitter: float = 0.0


# Assumptions, not measurements, except for `cpu`: rounded from published figures. `--fit` takes those of a
# real server.
PROFILES: Mapping[str, Profile] = {
    "none": Profile(),
    "gpu-8b": Profile(step_s=0.0085, candidate_s=0.00003, prefill=25_000, jitter=0.05),
    "gpu-70b": Profile(step_s=0.022, candidate_s=0.00008, prefill=8_000, jitter=0.05),
    # From benchmarks/results/serving-cpu.json: the built-in model on two cores.
    "cpu": Profile(step_s=0.040, candidate_s=0.0024, prefill=660, jitter=0.18),
}
DEFAULT = "gpu-8b"


def profile_of(name: str) -> Profile:
    """Raises ConfigurationError if there is no such profile."""
    if name not in PROFILES:
        raise ConfigurationError(f'there is no profile "{name}"{nearest(name, PROFILES)}')
    return PROFILES[name]


def fit(file: Path, server: str = "ours") -> Profile:
    """A profile from a result of benchmarks/serving.py, the plain load of one server. Raises
    ConfigurationError for a file without it."""
    try:
        document = json.loads(file.read_text("utf-8"))
        rows = [row for row in document["rows"] if row["load"] == "plain"]
        rows = [row for row in rows if row["server"] == server] or rows
        if not rows:
            raise ValueError("no row of a plain load")
        return _fitted(rows, _prompt_tokens(document["machine"]["command"]))
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file} is not a result of `python -m benchmarks.serving --json` with a plain load: {error!r}."
        ) from None


def _fitted(rows: list[dict[str, Any]], prompt_tokens: int) -> Profile:
    streams = np.array([row["streams"] for row in rows], float)
    gap_s = np.array([row["gap_ms"]["p50"] for row in rows]) / 1000
    first_s = np.array([row["first_ms"]["p50"] for row in rows]) / 1000
    candidate_s = max(0.0, float(np.polyfit(streams, gap_s, 1)[0])) if len(rows) > 1 else 0.0
    step_s = max(0.0, float(np.median(gap_s - candidate_s * (streams - 1))))
    # All requests come at once: the median one waits until all prompts are computed.
    prefill_s = max(1e-9, float(np.median((first_s - step_s) / (streams * prompt_tokens))))
    spread = [row["gap_ms"]["p99"] / row["gap_ms"]["p50"] for row in rows]
    jitter = max(0.0, math.log(float(np.median(spread))) / P99)
    return Profile(step_s, candidate_s, 1 / prefill_s, jitter=jitter)


def _prompt_tokens(command: str) -> int:
    words = command.split()
    # The default of benchmarks.serving
    return int(words[words.index("--prompt") + 1]) if "--prompt" in words else 512


class Latency:
    """speed: factor on the profile's speed."""

    def __init__(self, profile: Profile, *, speed: float = 1.0, seed: int = 0) -> None:
        self.chunk = profile.chunk
        self._profile = profile
        self._speed = speed
        self._random = random.Random(seed)

    def step_s(self, num_candidates: int, num_prompt_tokens: int) -> float:
        """Seconds of a step that computes a token for this many candidates, and this many prompt tokens."""
        profile = self._profile
        seconds = profile.step_s + profile.candidate_s * max(0, num_candidates - 1)
        seconds += num_prompt_tokens / profile.prefill
        if profile.jitter:
            seconds *= self._random.lognormvariate(0.0, profile.jitter)
        return seconds / self._speed
