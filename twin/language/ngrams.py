"""Counts of tokens after one and after two others, as sorted tables; made with NumPy in one pass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Table:
    """contexts: [num_contexts] sorted keys. starts: [num_contexts + 1], where the continuations of each
    begin. ids, counts: [num_continuations], the tokens that followed, and how often."""

    contexts: npt.NDArray[np.unsignedinteger]
    starts: npt.NDArray[np.unsignedinteger]
    ids: npt.NDArray[np.unsignedinteger]
    counts: npt.NDArray[np.unsignedinteger]

    def after(self, key: int) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.unsignedinteger]]:
        """The continuations of a context and their counts; empty for an unknown context."""
        at = int(np.searchsorted(self.contexts, self.contexts.dtype.type(key)))
        if at == len(self.contexts) or self.contexts[at] != key:
            return self.ids[:0], self.counts[:0]
        part = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return self.ids[part], self.counts[part]


@dataclass(frozen=True, slots=True)
class Ngrams:
    """vocab_size: of the tokens. singles: [vocab_size], counts of tokens. pairs: what follows a token, by its
    id. triples: what follows two tokens, by `key`."""

    vocab_size: int
    singles: npt.NDArray[np.unsignedinteger]
    pairs: Table
    triples: Table

    def key(self, first: int, second: int) -> int:
        return first * self.vocab_size + second


def count(text: Ids, vocab_size: int) -> Ngrams:
    """text: [num_tokens] token ids below vocab_size."""
    pairs = text[:-1] * vocab_size + text[1:]
    triples = pairs[:-1] * vocab_size + text[2:]
    return Ngrams(
        vocab_size,
        _small(np.bincount(text, minlength=vocab_size)),
        _table(pairs, vocab_size),
        _table(triples, vocab_size),
    )


def _table(grams: Ids, vocab_size: int) -> Table:
    """grams: context × vocab_size + continuation, for each place in a text."""
    different, counts = np.unique(grams, return_counts=True)
    contexts, starts = np.unique(different // vocab_size, return_index=True)
    return Table(
        _small(contexts),
        _small(np.append(starts, len(different))),
        _small(different % vocab_size),
        _small(counts),
    )


def _small(values: Ids) -> npt.NDArray[np.unsignedinteger]:
    """The same values in as few bits as the largest needs."""
    small: npt.NDArray[np.unsignedinteger] = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    return small


def save(ngrams: Ngrams, file: Path) -> None:
    tables = {"pairs": ngrams.pairs, "triples": ngrams.triples}
    arrays = {
        f"{name}_{field.name}": getattr(table, field.name)
        for name, table in tables.items()
        for field in fields(table)
    }
    np.savez(file, allow_pickle=False, singles=ngrams.singles, **arrays)


def load(file: Path) -> Ngrams:
    """Raises OSError or ValueError for a file that `save` did not write."""
    with np.load(file, allow_pickle=False) as arrays:
        singles = arrays["singles"]
        tables = [
            Table(**{field.name: arrays[f"{name}_{field.name}"] for field in fields(Table)})
            for name in ("pairs", "triples")
        ]
    return Ngrams(len(singles), singles, *tables)
