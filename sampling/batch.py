"""The rows of a batch with the tokens that each has seen, as flat arrays for transforms without a loop.

A request has seen few tokens of a large vocabulary, so its history is kept as pairs (row, token) with a
count, instead of a row as long as the vocabulary. A generated token raises one count or adds one pair at the
end; the arrays are only laid out again when the batch changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sampling.params import RowParams

Floats = npt.NDArray[np.float32]


class Row:
    """One request in the batch. output: its generated ids so far, a list that the runner appends to."""

    __slots__ = ("_at", "_num_taken", "_output", "counts", "ids", "params", "start", "tail")

    def __init__(
        self, params: RowParams, prompt: Sequence[int], earlier: Sequence[int], output: Sequence[int]
    ) -> None:
        self.params = params
        self._output = output
        # Only the repetition penalty uses the prompt; its tokens have the count 0. They are sorted by id, so
        # that a pass over them goes through memory in order.
        only_seen = prompt if params.repetition_penalty != 1.0 else []
        generated = [*earlier, *output] if params.has_history else []
        known = np.array([*only_seen, *generated], np.int64)
        self._num_taken = len(output)
        self.ids, pair = np.unique(known, return_inverse=True)
        self.counts: Floats = np.bincount(pair[len(only_seen) :], minlength=len(self.ids)).astype(np.float32)
        self._at = dict(zip(self.ids.tolist(), range(len(self.ids)), strict=True))
        self.start = 0  # where its pairs begin in the batch's arrays
        self.tail: dict[
            int, int
        ] = {}  # pairs added since the last layout: token id -> place in the batch's arrays

    def new_tokens(self) -> Sequence[int]:
        """What was generated since the last call."""
        new = self._output[self._num_taken :]
        self._num_taken += len(new)
        return new

    def place(self, token_id: int) -> int | None:
        """The place of a token's pair in the batch's arrays."""
        place = self._at.get(token_id)
        return self.tail.get(token_id) if place is None else self.start + place

    def absorb(self, batch_counts: Floats) -> None:
        """Take back counts and added pairs from the batch's arrays, before they are laid out again."""
        self.counts = batch_counts[self.start : self.start + len(self.ids)].copy()
        if self.tail:
            added = list(self.tail)
            self._at.update(zip(added, range(len(self.ids), len(self.ids) + len(added)), strict=True))
            self.ids = np.concatenate([self.ids, np.array(added, np.int64)])
            self.counts = np.concatenate([self.counts, batch_counts[list(self.tail.values())]])
            self.tail = {}


class Batch:
    """The rows that need transforms, and their pairs side by side.

    index: [num_pairs] place of each pair in the logits' memory, counted from the first logit. count:
    [num_pairs] times generated. repetition, frequency, presence: [num_pairs] the row's penalties. bias_index,
    bias: [num_biases]. min_p_rows: [num_rows] int64, ascending; min_p_border: [num_rows, 1] float32,
    temperature × ln(min_p). The arrays may be longer than num_pairs.

    Owners of copies compare num_layouts (the arrays were made again), num_pairs (pairs were added) and
    num_taken (a count was raised).
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.num_layouts = self.num_pairs = self.num_taken = 0
        self._row_stride = 0  # from one row's first logit to the next row's: at least the vocabulary
        self._layout_is_stale = False
        self._reserve(0)
        self._lay_out_constants()

    def put(self, number: int, row: Row | None) -> None:
        """Row `number` becomes this one; None: a row that needs nothing."""
        if row is None:
            self.remove(number)
            return
        self._take_back()
        self.rows[number] = row

    def remove(self, number: int) -> None:
        if number in self.rows:
            self._take_back()
            del self.rows[number]

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Row `source` becomes row `target`, and the other way round if swap."""
        moved, replaced = self.rows.get(source), self.rows.get(target)
        if moved is None and replaced is None:
            return
        self._take_back()
        for number, row in ((target, moved), (source, replaced if swap else None)):
            self.rows.pop(number, None)
            if row is not None:
                self.rows[number] = row

    def update(self, row_stride: int) -> None:
        """Add what was generated since the last step, for logits whose rows begin row_stride apart."""
        if row_stride != self._row_stride:
            self._take_back()
            self._row_stride = row_stride
        if self._layout_is_stale:
            self._lay_out()
        for number, row in self.rows.items():
            if row.params.has_history:
                for token_id in row.new_tokens():
                    self._generated(number, row, token_id)

    def _generated(self, number: int, row: Row, token_id: int) -> None:
        self.num_taken += 1
        place = row.place(token_id)
        if place is not None:
            self.count[place] += 1.0
            return
        if self.num_pairs == len(self.index):
            self._reserve(2 * self.num_pairs + 64)
        place = row.tail[token_id] = self.num_pairs
        self.index[place] = number * self._row_stride + token_id
        self.count[place] = 1.0
        self._set_penalties(slice(place, place + 1), row.params)
        self.num_pairs += 1

    def _take_back(self) -> None:
        if not self._layout_is_stale:
            for row in self.rows.values():
                row.absorb(self.count)
            self._layout_is_stale = True

    def _lay_out(self) -> None:
        """Lay out every row's pairs in a run of their own, with room for more after the last."""
        lengths = [len(row.ids) for row in self.rows.values()]
        self.num_pairs = sum(lengths)
        self._reserve(self.num_pairs + 64 * len(self.rows), keep=False)
        start = 0
        for (number, row), length in zip(self.rows.items(), lengths, strict=True):
            run = slice(start, start + length)
            row.start = start
            self.index[run] = row.ids + number * self._row_stride
            self.count[run] = row.counts
            self._set_penalties(run, row.params)
            start += length
        self._lay_out_constants()
        self.num_layouts += 1
        self._layout_is_stale = False

    def _set_penalties(self, run: slice, params: RowParams) -> None:
        self.repetition[run] = params.repetition_penalty
        self.frequency[run] = params.frequency_penalty
        self.presence[run] = params.presence_penalty

    def _lay_out_constants(self) -> None:
        biased = [
            (number * self._row_stride + token_id, value)
            for number, row in self.rows.items()
            for token_id, value in row.params.logit_bias.items()
        ]
        self.bias_index = np.array([place for place, _ in biased], np.int64)
        self.bias = np.array([value for _, value in biased], np.float32)
        masked = [(number, row.params) for number, row in sorted(self.rows.items()) if row.params.has_min_p]
        self.min_p_rows = np.array([number for number, _ in masked], np.int64)
        borders = [params.temperature * math.log(params.min_p) for _, params in masked]
        self.min_p_border = np.array(borders, np.float32).reshape(-1, 1)

    def _reserve(self, size: int, *, keep: bool = True) -> None:
        if not keep or size == 0:
            self.index, self.count = np.zeros(size, np.int64), np.zeros(size, np.float32)
            self.repetition, self.frequency, self.presence = (np.zeros(size, np.float32) for _ in range(3))
            return
        more = size - len(self.index)
        self.index = np.pad(self.index, (0, more))
        self.count = np.pad(self.count, (0, more))
        self.repetition, self.frequency, self.presence = (
            np.pad(values, (0, more)) for values in (self.repetition, self.frequency, self.presence)
        )
