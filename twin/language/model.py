"""The language model: a probability for every token, given the tokens before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twin.language.ngrams import Ngrams, Table

Probabilities = npt.NDArray[np.float64]  # [vocab_size]

CONTEXT = 2  # number of earlier tokens that matter
UNSEEN = 1e-4  # probability that is spread over all tokens
DISCOUNT = 0.3  # subtracted from each count, for continuations that were not seen (Kneser and Ney 1995)


class Language:
    """Interpolated counts with absolute discounting. Every token is possible after every other."""

    def __init__(self, ngrams: Ngrams) -> None:
        self.vocab_size = ngrams.vocab_size
        self._ngrams = ngrams
        singles = ngrams.singles.astype(np.float64)
        self._singles: Probabilities = (1 - UNSEEN) * singles / singles.sum() + UNSEEN / len(singles)

    def probabilities(self, before: Sequence[int]) -> Probabilities:
        """[vocab_size] float64, all above 0, sum 1; a new array. before: the tokens so far, of which the last
        CONTEXT matter."""
        found = self._singles.copy()
        if not before:
            return found
        second = before[-1]
        _mix(found, self._ngrams.pairs, second)
        if len(before) > 1:
            _mix(found, self._ngrams.triples, self._ngrams.key(before[-2], second))
        return found


def _mix(found: Probabilities, table: Table, key: int) -> None:
    """Mix in the counts of a longer context, which take precedence over the shorter one's."""
    ids, counts = table.after(key)
    if len(ids):
        num = int(counts.sum(dtype=np.int64))
        found *= DISCOUNT * len(ids) / num
        found[ids] += (counts - DISCOUNT) / num
