"""Which request each slot of vLLM's V2 runner belongs to, and what the kernels have to know of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sampling.batch import RowParams
from sampling.kernels import SlotTables

NEUTRAL = (1.0, 0.0, 0.0, -math.inf)  # repetition, frequency, presence, min_p's border


class Slots:
    """The host's side of SlotTables: what requests have changed goes to the device in one flush a step.

    A row of counts is lent to a slot that needs one and comes back when the slot's next request is put there.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._device, self._num_slots = device, num_slots
        self.has_history = np.zeros(num_slots, bool)
        self.has_min_p = np.zeros(num_slots, bool)
        self.num_biases = np.zeros(num_slots, np.int32)
        self._real = np.full((num_slots, 4), NEUTRAL, np.float32)
        self._whole = np.zeros((num_slots, 4), np.int32)
        self._whole[:, 1] = -1
        self._is_stale = False
        self._fresh: set[int] = set()  # slots with a history that begins anew
        self._free_count_rows: list[int] = []
        self._num_count_rows = 0  # lent and free
        self._biases: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = {}
        self._unplaced: set[int] = set()  # slots whose biases are not on the device
        self._biases_end = 0
        self.tables = SlotTables(
            real=self._upload(self._real),
            whole=self._upload(self._whole),
            num_taken=self._zeros(num_slots),
            seen=self._zeros(0, -(-vocab_size // 32)),
            counts=self._zeros(0, vocab_size),
            bias_ids=self._zeros(0),
            bias_values=self._zeros(0).float(),
        )

    def put(self, slot: int, params: RowParams, output_from: int) -> bool:
        """The slot now belongs to a request with these parameters. False: it needs nothing."""
        had_nothing = not (self.has_history[slot] or self.has_min_p[slot] or self.num_biases[slot])
        if params.is_neutral and had_nothing:
            return False
        self._is_stale = True
        self.has_history[slot] = params.has_history
        self.has_min_p[slot] = params.has_min_p
        self.num_biases[slot] = len(params.logit_bias)
        border = params.temperature * math.log(params.min_p) if params.has_min_p else -math.inf
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        self._real[slot] = (*penalties, border)
        if self._whole[slot, 1] >= 0:
            self._free_count_rows.append(int(self._whole[slot, 1]))
        counts = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._whole[slot] = (output_from, self._count_row() if counts else -1, 0, 0)
        (self._fresh.add if params.has_history else self._fresh.discard)(slot)
        self._biases.pop(slot, None)
        self._unplaced.discard(slot)
        if params.logit_bias:
            ids = np.fromiter(params.logit_bias, np.int32)
            self._biases[slot] = ids, np.fromiter(params.logit_bias.values(), np.float32)
            self._unplaced.add(slot)
        return not params.is_neutral

    def flush(self) -> None:
        """Bring the device's tables up to date. With nothing changed: no work at all."""
        if not self._is_stale:
            return
        self._is_stale = False
        if self._fresh:
            self._begin_histories()
        if self._unplaced:
            self._place_biases()
        self.tables.real = self._upload(self._real)
        self.tables.whole = self._upload(self._whole)

    def _count_row(self) -> int:
        if not self._free_count_rows:
            self._num_count_rows += 1
            return self._num_count_rows - 1
        return self._free_count_rows.pop()

    def _begin_histories(self) -> None:
        """Nothing is seen and nothing counted in the slots that are fresh; tables grow to hold them."""
        tables, fresh = self.tables, np.array(sorted(self._fresh))
        if len(tables.seen) == 0:
            tables.seen = self._zeros(self._num_slots, tables.seen.shape[1])
        if len(tables.counts) < self._num_count_rows:
            grown = self._zeros(min(2 * self._num_count_rows, self._num_slots), tables.counts.shape[1])
            grown[: len(tables.counts)] = tables.counts
            tables.counts = grown
        index = self._upload(fresh)
        tables.seen.index_fill_(0, index, 0)
        tables.num_taken.index_fill_(0, index, 0)
        count_rows = self._whole[fresh, 1]
        if (count_rows >= 0).any():
            tables.counts.index_fill_(0, self._upload(count_rows[count_rows >= 0].astype(np.int64)), 0)
        self._fresh.clear()

    def _place_biases(self) -> None:
        """Lists go to the end of the device's arrays; when those are full, all are laid out anew."""
        tables = self.tables
        if self._biases_end + int(self.num_biases[list(self._unplaced)].sum()) > len(tables.bias_ids):
            capacity = 2 * int(self.num_biases.sum())  # so the cost of a layout is shared by as many entries
            tables.bias_ids = self._zeros(capacity)
            tables.bias_values = self._zeros(capacity).float()
            self._unplaced, self._biases_end = set(self._biases), 0
        placed = sorted(self._unplaced)
        ends = self._biases_end + np.cumsum(self.num_biases[placed])
        self._whole[placed, 2] = ends - self.num_biases[placed]
        self._whole[placed, 3] = ends
        run = slice(self._biases_end, int(ends[-1]))
        tables.bias_ids[run] = self._upload(np.concatenate([self._biases[slot][0] for slot in placed]))
        tables.bias_values[run] = self._upload(np.concatenate([self._biases[slot][1] for slot in placed]))
        self._biases_end = run.stop
        self._unplaced.clear()

    def _zeros(self, *shape: int) -> torch.Tensor:
        """[shape] int32 on the device."""
        return torch.zeros(shape, dtype=torch.int32, device=self._device)

    def _upload(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device, made without waiting for what that has still to do."""
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor.clone()
        # The pinned copy is the step's own, and torch keeps it until the device has read it.
        return tensor.pin_memory().to(self._device, non_blocking=True)
