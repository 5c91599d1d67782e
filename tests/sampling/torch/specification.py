"""The reference's answer where our processors end: before temperature, which min_p already heeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sampling import reference
from sampling.batch import RowParams
from sampling.reference import Logits


def before_temperature(
    logits: Logits, params: RowParams, prompt: Sequence[int], output: Sequence[int]
) -> Logits:
    logits = reference.logit_bias(logits, params.logit_bias)
    logits = reference.repetition(logits, [*prompt, *output], params.repetition_penalty)
    logits = reference.frequency(logits, output, params.frequency_penalty)
    logits = reference.presence(logits, output, params.presence_penalty)
    if not params.has_min_p:
        return logits
    tempered = reference.temperature(logits, params.temperature)
    return np.where(np.isneginf(reference.min_p(tempered, params.min_p)), -np.inf, logits)
