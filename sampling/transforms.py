"""The transforms of reference.py in torch, over all rows of a batch at once, in place.

Only what a batch uses is touched: with no row that needs anything, `apply` returns at once.
"""

from __future__ import annotations

import torch

from sampling.batch import Batch


def apply(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logit bias, repetition, frequency, presence and min_p, in that order, before temperature.

    logits: [num_rows, vocab_size] float32, contiguous, changed in place and returned.
    """
    if not batch.rows:
        return logits
    flat = logits.view(-1)
    if len(batch.bias):
        flat.index_add_(0, torch.from_numpy(batch.bias_index), torch.from_numpy(batch.bias))
    if batch.num_pairs:
        _penalise(flat, batch)
    if len(batch.min_p_rows):
        _mask_min_p(logits, batch)
    return logits


def _penalise(flat: torch.Tensor, batch: Batch) -> None:
    """Repetition, frequency and presence on the tokens that have been seen.

    flat: [num_rows × vocab_size] float32, changed in place.
    """
    index, count, repetition, frequency, presence = (
        torch.from_numpy(values[: batch.num_pairs])
        for values in (batch.index, batch.count, batch.repetition, batch.frequency, batch.presence)
    )
    seen = flat[index]
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen -= frequency * count
    seen -= presence * (count > 0)
    flat[index] = seen


def _mask_min_p(logits: torch.Tensor, batch: Batch) -> None:
    """Ban what is below the row's largest logit + temperature × ln(min_p): the rule's logits, before
    temperature.

    logits: [num_rows, vocab_size] float32, changed in place.
    """
    rows = torch.from_numpy(batch.min_p_rows)
    every = len(rows) == len(logits) and bool((rows == torch.arange(len(rows))).all())
    wanted = logits if every else logits[rows]
    border = wanted.amax(dim=-1, keepdim=True) + torch.from_numpy(batch.min_p_border)
    wanted.masked_fill_(wanted < border, -torch.inf)
    if not every:
        logits[rows] = wanted
