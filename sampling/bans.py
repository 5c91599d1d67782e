"""Banned tokens for vLLM's V1 runner: all but the allowed ones, and those that would complete a bad word.
They are rarely used: it works row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sampling.params import RowParams
from sampling.reference import UNWANTED
from sampling.staging import staged

Word = tuple[int, ...]


class Words:
    """Bad words by what comes before their last token, so that a step looks at no more than needed."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._lasts: dict[Word, set[int]] = {}
        for *before, last in words:
            self._lasts.setdefault(tuple(before), set()).add(last)
        self._lengths = sorted({len(before) for before in self._lasts})

    @property
    def reach(self) -> int:
        """How many tokens it looks back."""
        return max(self._lengths, default=0)

    def completed_by(self, output: Sequence[int]) -> list[int]:
        """The tokens that would complete a word after this output, or its end."""
        found: set[int] = set()
        for length in self._lengths:
            if length <= len(output):
                found |= self._lasts.get(tuple(output[len(output) - length :]), set())
        return sorted(found)


class Ban:
    """The bans of one request. earlier: its output before it was resumed. output: its ids since, a list that
    the runner appends to."""

    def __init__(self, params: RowParams, earlier: Sequence[int], output: Sequence[int]) -> None:
        self.allowed = params.allowed_token_ids
        self._words = Words(params.bad_words)
        self._reach = self._words.reach
        self._earlier = [*earlier[len(earlier) - self._reach :]] if len(earlier) > self._reach else [*earlier]
        self._output = output

    def unwanted(self) -> list[int]:
        recent = [*self._output[-self._reach :]] if self._reach else []
        return self._words.completed_by(recent if len(recent) == self._reach else [*self._earlier, *recent])


class Bans:
    """The rows with bans."""

    def __init__(self, device: torch.device, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._rows: dict[int, Ban] = {}

    def put(self, number: int, row: Ban | None) -> None:
        """Row `number` becomes this one; None: a row without bans."""
        self.remove(number)
        if row is not None:
            self._rows[number] = row

    def remove(self, number: int) -> None:
        self._rows.pop(number, None)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Row `source` becomes row `target`, and the other way round if swap."""
        moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
        self.put(target, moved)
        self.put(source, replaced if swap else None)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """The first of the transforms. logits: [num_rows, vocab_size] float32, changed in
        place and returned."""
        for number, row in self._rows.items():
            if row.allowed:
                ids = self._sent(row.allowed)
                kept = logits[number, ids]
                logits[number] = -torch.inf
                logits[number, ids] = kept
            if unwanted := row.unwanted():
                ids = self._sent(unwanted)
                logits[number, ids] = logits[number, ids].clamp(max=UNWANTED)
        return logits

    def _sent(self, ids: Sequence[int]) -> Any:
        tensor = torch.tensor(ids, dtype=torch.int64)
        return staged(tensor.numpy(), pinned=self._pinned).to(self._device, non_blocking=True)
