"""The transforms of reference.py in torch, over all rows of a batch at once, in place.

Only what a batch uses is touched: if no row needs anything, `apply` returns at once.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from sampling.batch import Batch
from sampling.staging import staged


class Transforms:
    """A batch's transforms on the device of its logits.

    The batch's arrays are sent there when they have changed, and nothing waits for the device. On the CPU,
    nothing is sent.
    """

    def __init__(self, batch: Batch, device: torch.device, *, pinned: bool = False) -> None:
        self._batch, self._device, self._pinned = batch, device, pinned
        self._sent: dict[str, tuple[Any, torch.Tensor]] = {}

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logit bias, repetition, frequency, presence and min_p, in that order, before temperature.

        logits: [num_rows, vocab_size] float32, changed in place and returned. Rows may begin any distance
        apart: of a model in float32 they are parts of longer ones.
        """
        batch = self._batch
        if not batch.rows:
            return logits
        assert logits.dtype == torch.float32
        assert logits.stride(1) == 1
        num_rows, vocab_size = logits.shape
        batch.update(logits.stride(0))
        reach = (num_rows - 1) * logits.stride(0) + vocab_size
        flat = logits.as_strided((reach,), (1,))  # includes what is between the rows, where no index points
        if len(batch.bias):
            flat.index_add_(0, self._array("bias_index"), self._array("bias"))
        if batch.num_pairs:
            self._penalise(flat)
        if len(batch.min_p_rows):
            self._mask_min_p(logits)
        return logits

    def _penalise(self, flat: torch.Tensor) -> None:
        """Repetition, frequency and presence on the tokens that have been seen.

        flat: [reach] float32, changed in place.
        """
        num_pairs, num_taken = self._batch.num_pairs, self._batch.num_taken
        index, repetition, frequency, presence = (
            self._array(name, num_pairs, length=num_pairs)
            for name in ("index", "repetition", "frequency", "presence")
        )
        count = self._array("count", num_taken, length=num_pairs)
        seen = flat[index]
        seen = torch.where(seen > 0, seen / repetition, seen * repetition)
        seen -= frequency * count
        seen -= presence * (count > 0)
        flat[index] = seen

    def _mask_min_p(self, logits: torch.Tensor) -> None:
        """Ban what is below the row's largest logit + temperature × ln(min_p): the rule's
        logits, before temperature.

        logits: [num_rows, vocab_size] float32, changed in place.
        """
        rows = self._array("min_p_rows")
        every = len(rows) == len(logits)
        wanted = logits if every else logits[rows]
        border = wanted.amax(dim=-1, keepdim=True) + self._array("min_p_border")
        wanted.masked_fill_(wanted < border, -torch.inf)
        if not every:
            logits[rows] = wanted

    def _array(self, name: str, version: int = 0, *, length: int | None = None) -> torch.Tensor:
        """One of the batch's arrays on the device. version: of changes besides a new layout."""
        version_sent, tensor = self._sent.get(name, (None, None))
        if tensor is None or version_sent != (self._batch.num_layouts, version):
            array: npt.NDArray[Any] = getattr(self._batch, name)[:length]
            tensor = staged(array, pinned=self._pinned).to(self._device, non_blocking=True)
            self._sent[name] = (self._batch.num_layouts, version), tensor
        return tensor
