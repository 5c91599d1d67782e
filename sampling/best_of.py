"""Which of best_of candidates are returned, and which wait meanwhile. Pure functions of sums and lengths.

A candidate is ranked by the mean log-probability of its generated tokens, natural logarithm, of the raw model
distribution; ties go to the lower number.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

# Tokens after which a candidate may be paused: its mean then says something about its end.
AFTER = 32
# The part of max_tokens that others may be ahead of a paused candidate.
LEAD = 0.375


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

    @property
    def is_full(self) -> bool:
        """Whether as many have finished as can win."""
        return len(self._best) == self._n

    def finish(self, number: int, mean: float) -> int | None:
        """A candidate has finished. Returns the number of one that can no longer win: this one, or the one
        that it replaced."""
        insort(self._best, (-mean, number))
        return self._best.pop()[1] if len(self._best) > self._n else None

    def excludes(self, number: int, best_possible: float) -> bool:
        """Whether a candidate that ends with this mean, or a lower one, cannot win any more."""
        return self.is_full and self._best[-1] < (-best_possible, number)


class Pauses:
    """Which candidates wait while better ones run ahead, so that a good mean is known before the others have
    all their tokens. It changes no choice.

    The worse half pauses, each candidate when it has AFTER tokens. All continue when n have finished, or when
    one has LEAD × max_tokens more. At least n never pause, so this happens whatever the candidates do.
    """

    def __init__(self, n: int, best_of: int, max_tokens: int) -> None:
        self._num_ahead = max(n, (best_of + 1) // 2)
        self._most = best_of - self._num_ahead
        self._far = AFTER + int(LEAD * max_tokens)
        self._paused: list[int] = []
        self.is_over = self._most == 0

    def pauses(self, number: int, before: int, now: int, means: Callable[[], dict[int, float]]) -> bool:
        """Whether a candidate pauses that had `before` tokens, and has `now`. means: by number, of all that
        have not ended and have tokens, this one included."""
        if self.is_over or not before < AFTER <= now or len(self._paused) == self._most:
            return False
        known = means()
        if sum(mean > known[number] for mean in known.values()) < self._num_ahead:
            return False
        self._paused.append(number)
        return True

    def continuing(self, now: int, *, is_full: bool) -> list[int]:
        """The paused candidates that continue. now: tokens of one that has just got some. is_full: whether n
        have finished."""
        if self.is_over or not (is_full or now >= self._far):
            return []
        self.is_over = True
        return self._paused
