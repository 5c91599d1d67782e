"""The rows of a batch whose token is drawn, as arrays.

No state is kept from one step to the next: a row's draw follows from its seed and the number of tokens that
it has generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sampling import noise
from sampling.params import RowParams

OFF = 2**31  # larger than any vocabulary


class Drawing(NamedTuple):
    """One request. num_before: tokens generated before it was resumed. output: those since, a list that the
    runner appends to."""

    params: RowParams
    num_before: int
    output: Sequence[int]


class Draws:
    """The rows that draw, in the order of their numbers. After update:

    number: [num] int64, the rows. temperature: [num] float32. top_k: [num] int64, as large as a vocabulary
    can be where it is off. top_p: [num] float64, infinite where it is off. is_truncated: [num] bool. key:
    [num] uint64 of noise.py.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Drawing] = {}
        self._only: Sequence[int] | None = None
        self._is_stale = False

    def put(self, number: int, row: Drawing | None) -> None:
        """Row `number` becomes this one; None: a row that does not draw."""
        if row is None:
            self.remove(number)
            return
        self.rows[number] = row
        self._is_stale = True

    def remove(self, number: int) -> None:
        if self.rows.pop(number, None) is not None:
            self._is_stale = True

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Row `source` becomes row `target`, and the other way round if swap."""
        moved, replaced = self.rows.pop(source, None), self.rows.pop(target, None)
        self.put(target, moved)
        self.put(source, replaced if swap else None)
        self._is_stale = True

    def restrict(self, numbers: Sequence[int] | None) -> None:
        """From now on the arrays are of these rows; None: of all."""
        self._only = numbers
        self._is_stale = True

    def update(self) -> None:
        """Update the arrays to what the rows have generated."""
        if self._is_stale:
            self._lay_out()
        positions = [row.num_before + len(row.output) for row in self._in_order]
        self.key = noise.key(self._seed, np.array(positions, np.uint64))

    def _lay_out(self) -> None:
        numbers = sorted(self.rows if self._only is None else self.rows.keys() & self._only)
        self._in_order = [self.rows[number] for number in numbers]
        params = [row.params for row in self._in_order]
        self.number = np.array(numbers, np.int64)
        self.temperature = np.array([p.temperature for p in params], np.float32)
        self.top_k = np.array([p.top_k if p.top_k > 0 else OFF for p in params], np.int64)
        self.top_p = np.array([p.top_p if p.top_p < 1 else np.inf for p in params], np.float64)
        self.is_truncated = (self.top_k < OFF) | (self.top_p < 1)
        self._seed = np.array([p.seed for p in params], np.uint64)
        self._is_stale = False
