"""Which of best_of candidates are returned. Pure functions of sums and lengths.

A candidate is ranked by the mean log-probability of its generated tokens, natural logarithm, of the raw model
distribution; ties go to the lower number.
"""

from __future__ import annotations

from bisect import insort


def mean_logprob(logprob_sum: float, num_tokens: int) -> float:
    """The value by which a candidate is ranked.

    A candidate without tokens gets 0, the best value. (With max_tokens 0 all candidates are without tokens,
    and tie.)
    """
    return logprob_sum / num_tokens if num_tokens else 0.0


def best_mean(logprob_sum: float, max_tokens: int) -> float:
    """The largest mean that a candidate with this sum can still end with.

    A log-probability is at most 0, so the sum cannot rise, and it weighs least over the largest length. This
    holds in floating point as well, which rounds monotonically: no final mean is above it, not by a bit.
    """
    return logprob_sum / max_tokens


class Ranking:
    """The n best of the candidates that have finished."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._best: list[tuple[float, int]] = []  # (-mean, number), ascending: the best first

    @property
    def winners(self) -> list[int]:
        """Numbers, best first."""
        return [number for _, number in self._best]

    def finish(self, number: int, mean: float) -> int | None:
        """A candidate has finished. Returns the number of one that can no longer win: this one, or the one
        that it replaced."""
        insort(self._best, (-mean, number))
        return self._best.pop()[1] if len(self._best) > self._n else None

    def excludes(self, number: int, best_possible: float) -> bool:
        """Whether a candidate that ends with this mean, or a lower one, cannot win any more."""
        return len(self._best) == self._n and self._best[-1] < (-best_possible, number)
