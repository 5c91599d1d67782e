"""The last steps of reference.py in torch: temperature, top_k, top_p and the draw, for vLLM's V1 runner.

In each row that draws, the winner's logit becomes so large that vLLM, which takes the largest, takes it. No
row's choice depends, by a single bit, on the rest of the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sampling import noise
from sampling.draws import Draws
from sampling.reference import BLOCK
from sampling.staging import staged

Ints = npt.NDArray[np.int64]

WON = 3e38  # larger than all other logits, and finite in float32
# Weights that are processed together, 4 MiB: they stay in the CPU's cache, in memory that is used again, and
# give its threads enough work.
CACHED = 2**20


class Choice:
    """The draws of a batch on the device of its logits. On a device, nothing waits for it."""

    def __init__(self, draws: Draws, device: torch.device, *, pinned: bool = False) -> None:
        self._draws, self._device, self._pinned = draws, device, pinned
        self._on_cpu = device.type == "cpu"
        self._memory = torch.empty(0, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: [num_rows, vocab_size] float32 after min_p, changed in place and returned. Rows may begin
        any distance apart."""
        draws = self._draws
        if not draws.rows:
            return logits
        draws.update()
        num_rows, num = len(logits), len(draws.number)
        some = max(1, CACHED // logits.shape[1]) if self._on_cpu else max(1, num)
        for first in range(0, num, some):
            part = slice(first, first + some)
            rows = self._sent(draws.number[part])
            wanted = logits[part] if num == num_rows else logits[rows]
            winners = self._winners(wanted, part)
            before = logits[rows, winners]
            # NaN stays: in a float32 model, vLLM counts it after this.
            logits[rows, winners] = torch.where(before.isnan(), before, WON)
        return logits

    def _winners(self, logits: torch.Tensor, part: slice) -> torch.Tensor:
        """[num] int64. logits: [num, vocab_size] float32, changed in place. part: which of the draws
        they are for."""
        draws = self._draws
        temperature = draws.temperature[part]
        if (temperature != 1.0).any():
            logits /= self._sent(temperature)[:, None]
        if self._memory.numel() < logits.numel():
            self._memory = logits.new_empty(logits.numel())
        weights = self._memory[: logits.numel()].view(logits.shape)
        torch.softmax(logits, dim=-1, out=weights)
        truncated = np.flatnonzero(draws.is_truncated[part])
        if len(truncated):
            k, p = draws.top_k[part][truncated], draws.top_p[part][truncated]
            if len(truncated) == len(weights):
                self._keep_top(weights, k, p)
            else:
                which = self._sent(truncated)
                weights[which] = self._keep_top(weights[which], k, p)
        return race(weights, self._sent(draws.key[part].view(np.int64)))

    def _keep_top(
        self, weights: torch.Tensor, top_k: npt.NDArray[Any], top_p: npt.NDArray[Any]
    ) -> torch.Tensor:
        k, p = self._sent(np.minimum(top_k, weights.shape[1])), self._sent(top_p)
        most = int(top_k[top_k < weights.shape[1]].max(initial=0))
        return keep_top(weights, k, p, border(weights, k, p, most) if self._on_cpu else None)

    def _sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return staged(np.ascontiguousarray(array), pinned=self._pinned).to(self._device, non_blocking=True)


def border(weights: torch.Tensor, k: torch.Tensor, p: torch.Tensor, most: int) -> torch.Tensor:
    """[num, 1] float32: a weight below which nothing is kept. most: the largest k that keeps anything out.

    Among the largest of each block k are at least as large as the k-th; and what is likelier than (1 - p) /
    vocab_size has more than p in sum, since all the others have less than 1 - p.
    """
    vocab_size = weights.shape[1]
    found = ((1 - p).clamp(min=0) / (2 * vocab_size)).float()  # half of it, because sums round
    num_whole = vocab_size // BLOCK
    if most:
        kth = torch.zeros_like(found)
        if most <= num_whole:
            largest = blocks(weights, num_whole).amax(dim=-1).topk(most, dim=-1).values
            kth = largest.gather(1, (k - 1).clamp(max=most - 1)[:, None])[:, 0]
        found = torch.where(k < vocab_size, kth, found)
    return found.clamp(min=torch.finfo(torch.float32).tiny)[:, None]  # a weight of 0 is not kept either


def keep_top(
    weights: torch.Tensor, k: torch.Tensor, p: torch.Tensor, least: torch.Tensor | None
) -> torch.Tensor:
    """Set to 0 the weights outside of the k largest, then those beyond a sum of p.

    weights: [num, vocab_size] float32 of sum 1, changed in place and returned. k: [num] int64; vocab_size:
    off. p: [num] float64; infinite: off. least: [num, 1], nothing smaller is kept; None: unknown.
    """
    vocab_size = weights.shape[1]
    values, ids = weights, None
    if least is not None:
        rows, ids_found = np.divmod(np.flatnonzero(weights.numpy() >= least.numpy()), vocab_size)
        counts = np.bincount(rows, minlength=len(weights))
        if 4 * counts.max() < vocab_size:  # a sort takes a hundred times as long as one look at each weight
            values, ids = _packed(weights, rows, ids_found, counts)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    sums = values.cumsum(dim=-1, dtype=torch.float64)
    width = values.shape[1]
    is_limited = (k < vocab_size)[:, None]
    of_k = sums.gather(1, (k[:, None] - 1).clamp(max=width - 1))
    enough = p[:, None] * torch.where(is_limited, of_k, 1.0)
    values.masked_fill_(torch.arange(width, device=k.device) >= k[:, None], 0.0)
    values[:, 1:].masked_fill_(sums[:, :-1] >= enough, 0.0)
    # In padded rows an id appears several times, with 0; so it is added, not written.
    return weights.zero_().scatter_add_(1, order if ids is None else ids.gather(1, order), values)


def _packed(weights: torch.Tensor, rows: Ints, ids: Ints, counts: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """(the candidates of each row side by side, in the order of their ids; their ids), padded with 0. rows,
    ids: where they are. counts: how many each row has."""
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    shape = len(weights), max(1, int(counts.max()))  # none if all are NaN
    packed, packed_ids = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    packed[rows, places], packed_ids[rows, places] = weights.numpy()[rows, ids], ids
    return torch.from_numpy(packed), torch.from_numpy(packed_ids)


def blocks(weights: torch.Tensor, num: int) -> torch.Tensor:
    """[num_rows, num, BLOCK]: the first `num` blocks of each row of contiguous weights."""
    return weights.as_strided((len(weights), num, BLOCK), (weights.stride(0), BLOCK, 1))


def race(weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """reference.draw: [num_rows] int64. weights: [num_rows, vocab_size] float32. keys: [num_rows] int64.

    The result is a token id even if the weights are NaN.
    """
    vocab_size, device = weights.shape[1], weights.device
    num_whole = vocab_size // BLOCK
    sums = blocks(weights, num_whole).sum(dim=-1)
    if num_whole * BLOCK < vocab_size:
        rest = weights[:, num_whole * BLOCK :].sum(dim=-1, keepdim=True)
        sums = torch.cat([sums, rest], dim=-1)
    numbers = torch.arange(sums.shape[1], device=device)
    block = (sums / exponential(keys, noise.FIRST_BLOCK + numbers)).argmax(dim=-1, keepdim=True)
    ids = block * BLOCK + torch.arange(BLOCK, device=device)
    inside = weights.gather(1, ids.clamp(max=vocab_size - 1)) * (ids < vocab_size)
    place = (inside / exponential(keys, ids)).argmax(dim=-1, keepdim=True)
    return (block * BLOCK + place)[:, 0].clamp(max=vocab_size - 1)


def exponential(keys: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """noise.exponential. keys: [num_rows] int64. numbers: [num] or [num_rows, num] int64."""
    if keys.device.type == "cpu":  # a third of the time
        bits = (tensor.numpy().view(np.uint64) for tensor in (keys[:, None], numbers))
        return torch.from_numpy(noise.exponential(*bits))
    bits = keys[:, None] + (numbers + 1) * _signed(noise.GAMMA)
    for shift, multiplier in zip(noise.SHIFTS, noise.MULTIPLIERS, strict=False):
        bits = (bits ^ _shifted(bits, shift)) * _signed(multiplier)
    bits ^= _shifted(bits, noise.SHIFTS[-1])
    fraction = _shifted(bits, 64 - noise.FRACTION_BITS)
    return -((fraction.double() + 0.5) * 2.0**-noise.FRACTION_BITS).log()


def _signed(bits: int) -> int:
    """The same 64 bits as a signed integer: torch does not calculate with unsigned ones."""
    return bits - 2**64 if bits >= 2**63 else bits


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right, filling with zeros."""
    return (bits >> by) & (2 ** (64 - by) - 1)
