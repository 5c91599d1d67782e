"""Logits and parameters by chance, for whatever has to choose as the reference does."""

from __future__ import annotations

import numpy as np

from sampling.params import RowParams
from sampling.reference import Logits


def drawn_logits(rng: np.random.Generator, num_rows: int, vocab_size: int) -> Logits:
    """Of all spreads; in some batches nearly every logit ties with others, in some many are banned."""
    logits = rng.normal(size=(num_rows, vocab_size)) * rng.choice([0.5, 3.0, 8.0])
    logits = logits.astype(np.float32).astype(np.float64)
    if rng.random() < 0.5:
        logits = np.round(logits * 2) / 2  # 0 and -0 among them
    if rng.random() < 0.4:
        logits[rng.random(logits.shape) < 0.5] = -np.inf
        logits[:, 2] = 1.0
    return logits


def drawn_params(rng: np.random.Generator, vocab_size: int) -> RowParams:
    return RowParams(
        temperature=float(rng.choice([0.3, 1.0, 2.0])),
        top_k=int(rng.choice([0, -1, 1, 3, 50, 200, vocab_size, vocab_size + 9])),
        top_p=float(rng.choice([1.0, 0.93, 0.51, 1e-9])),
        seed=int(rng.integers(0, 2**63)),
    )
