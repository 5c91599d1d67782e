"""The reference's answer where our processors are half way, before temperature, and where they end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sampling import reference
from sampling.params import RowParams
from sampling.reference import Logits, Transforms

WON = float(np.float32(3e38))  # the logit of the one that is drawn


def before_temperature(
    logits: Logits, params: RowParams, prompt: Sequence[int], output: Sequence[int]
) -> Logits:
    logits = reference.allowed(logits, params.allowed_token_ids)
    logits = reference.bad_words(logits, params.bad_words, output)
    logits = reference.logit_bias(logits, params.logit_bias)
    logits = reference.repetition(logits, [*prompt, *output], params.repetition_penalty)
    logits = reference.frequency(logits, output, params.frequency_penalty)
    logits = reference.presence(logits, output, params.presence_penalty)
    if not params.has_min_p:
        return logits
    tempered = reference.temperature(logits, params.temperature)
    return np.where(np.isneginf(reference.min_p(tempered, params.min_p)), -np.inf, logits)


def after_the_draw(logits: Logits, params: RowParams, prompt: Sequence[int], output: Sequence[int]) -> Logits:
    """What `before_temperature` has made of the logits, and of the one that is drawn the largest."""
    changed = before_temperature(logits, params, prompt, output)
    if params.is_drawn:
        changed[drawn(changed, params, len(output))] = WON
    return changed


def drawn(logits: Logits, params: RowParams, position: int) -> int:
    """The token that is drawn of logits after min_p."""
    assert params.seed is not None
    spec = Transforms(temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
    return reference.draw(reference.probabilities(logits, spec), params.seed, position)
