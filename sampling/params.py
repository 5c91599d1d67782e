"""The parameters of our sampling, as they travel to the engine in SamplingParams.extra_args."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampling.reference import GREEDY

# Of a repetition penalty: in float32 a logit that is divided by less becomes infinite, and then NaN.
LEAST_PENALTY = 1e-20


@dataclass(frozen=True, slots=True)
class RowParams:
    """Neutral: {}, 1, 0, 0, 0, 1, 0, 1, (), (). bad_words: as token ids. seed None: nothing is drawn, the
    likeliest token is taken. logprob_token_ids: tokens whose log-probabilities are returned, which
    changes no choice.

    vLLM's own parameters stay neutral, its temperature 0: it takes the largest logit, which is the winner's.
    """

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_p: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprob_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_extra_args(cls, extra_args: Mapping[str, Any] | None) -> RowParams:
        """The parameters in extra_args; other entries are ignored."""
        known = {name: value for name, value in (extra_args or {}).items() if name in cls.__slots__}
        if "repetition_penalty" in known:
            known["repetition_penalty"] = max(known["repetition_penalty"], LEAST_PENALTY)
        if "logit_bias" in known:  # in msgpack, keys stay integers
            known["logit_bias"] = {
                int(token_id): float(bias) for token_id, bias in known["logit_bias"].items()
            }
        for name in {"allowed_token_ids", "logprob_token_ids"} & known.keys():
            known[name] = tuple(known[name])
        if "bad_words" in known:
            known["bad_words"] = tuple(map(tuple, known["bad_words"]))
        return cls(**known)

    @property
    def has_history(self) -> bool:
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def is_drawn(self) -> bool:
        return self.seed is not None and self.temperature >= GREEDY

    @property
    def has_min_p(self) -> bool:
        return self.min_p > 0.0 and self.temperature >= GREEDY

    @property
    def is_truncated(self) -> bool:
        return self.is_drawn and (self.top_k > 0 or self.top_p < 1.0)

    @property
    def has_bans(self) -> bool:
        return bool(self.allowed_token_ids or self.bad_words)

    @property
    def has_transforms(self) -> bool:
        """Whether it changes logits before the draw, apart from bans."""
        return bool(self.logit_bias) or self.has_history or self.has_min_p

    @property
    def is_neutral(self) -> bool:
        return not (self.has_transforms or self.has_bans or self.is_drawn)
