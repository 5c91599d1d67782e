"""top_k and top_p in torch for vLLM's V1 runner on the CPU, after temperature and min_p.

Of equal logits the lower ids come first, as in reference.py, and for top_k in the Triton kernel that vLLM has
on a GPU.
"""

from __future__ import annotations

import torch


def keep_top(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    """Ban what is not among the k likeliest, then what those with a sum of at least p do without.

    logits: [num_rows, vocab_size] float32, changed in place and returned. k: [num_rows] whole numbers,
    vocab_size is off. p: [num_rows] float32, 1 is off. None: off for all.
    """
    vocab_size = width = logits.shape[1]
    is_limited = torch.zeros(len(logits), dtype=torch.bool) if k is None else k < vocab_size
    if k is not None and is_limited.any():
        most = int(k[is_limited].max())
        _keep_top_k(logits, torch.where(is_limited, k, most).long(), is_limited, most)
        if p is None or bool((is_limited | (p >= 1.0)).all()):
            width = most
    if p is not None:
        _keep_top_p(logits, p, width)
    return logits


def _keep_top_k(logits: torch.Tensor, k: torch.Tensor, is_limited: torch.Tensor, most: int) -> None:
    """k: [num_rows] int64, at most `most`, which is below vocab_size. is_limited: [num_rows] bool."""
    likeliest = logits.topk(most + 1, dim=-1).values
    last, next_one = (likeliest.gather(1, column[:, None]) for column in (k - 1, k))
    border = torch.where(is_limited[:, None], last, -torch.inf)
    logits.masked_fill_(logits < border, -torch.inf)
    has_too_many = (border == next_one) & (border > -torch.inf)
    for row in has_too_many.flatten().nonzero().flatten().tolist():
        num_above = int((likeliest[row] > border[row]).sum())
        at_border = (logits[row] == border[row]).nonzero().flatten()
        logits[row, at_border[int(k[row]) - num_above :]] = -torch.inf


def _keep_top_p(logits: torch.Tensor, p: torch.Tensor, width: int) -> None:
    """width: no row with a p has more tokens left."""
    values, ids = logits, None
    if width < logits.shape[1]:  # a sort of the whole vocabulary takes twenty times as long
        ids = logits.topk(width, dim=-1).indices.sort(dim=-1).values
        values = logits.gather(1, ids)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    sums = values.softmax(dim=-1).cumsum(dim=-1)
    banned = torch.zeros_like(values, dtype=torch.bool)
    banned[:, 1:] = (sums[:, :-1] >= p[:, None]) & (p[:, None] < 1.0)
    values.masked_fill_(banned, -torch.inf)
    logits.scatter_(1, order if ids is None else ids.gather(1, order), values)
