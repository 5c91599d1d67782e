"""Ranking the candidates of best_of. Pure functions over sums and lengths."""

from __future__ import annotations

from collections.abc import Sequence


def mean_logprob(logprob_sum: float, num_tokens: int) -> float:
    """Mean log-probability per generated token, natural logarithm, of the raw model distribution.

    A candidate without tokens has nothing against it: 0, the best there is. (max_tokens 0: all are without,
    and tie.)
    """
    return logprob_sum / num_tokens if num_tokens else 0.0


def rank(means: Sequence[float], n: int) -> list[int]:
    """The numbers of the n best candidates, best first; ties go to the lower number."""
    return sorted(range(len(means)), key=lambda number: (-means[number], number))[:n]
