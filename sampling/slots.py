"""The requests in the slots of vLLM's V2 runner, and what the kernels need to know of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sampling import noise
from sampling.ban_kernels import SlotBans, slot_bans
from sampling.kernels import SlotTables
from sampling.params import RowParams
from sampling.staging import staged

# repetition, frequency, presence, the limit of min_p, temperature, top_p
NEUTRAL = (1.0, 0.0, 0.0, -math.inf, 0.0, 1.0)
# Biases for which a slot has room on the device, 4 KiB; OpenAI's endpoint takes at most 300.
BIAS_ROOM = 512


class Slots:
    """The host's side of SlotTables: changes of requests go to the device in one flush per step.

    The tables are made at the start for every slot, and never grow: vLLM makes its processors before it
    measures the memory left for the KV cache. long_biases: by slot, lists that are too long for a slot's
    room; they stay on the host and are sent with each step that needs them. bans: by slot, of requests that
    have any.
    """

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, bias_room: int = BIAS_ROOM
    ) -> None:
        self._device, self._vocab_size, self._bias_room = device, vocab_size, bias_room
        self._pinned = device.type != "cpu"
        self.has_history = np.zeros(num_slots, bool)
        self.has_min_p = np.zeros(num_slots, bool)
        self.num_biases = np.zeros(num_slots, np.int32)  # number on the device
        self.long_biases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.bans: dict[int, SlotBans] = {}
        self.is_drawn = np.zeros(num_slots, bool)
        self.is_truncated = np.zeros(num_slots, bool)
        self._real = np.full((num_slots, len(NEUTRAL)), NEUTRAL, np.float32)
        self._top_k = np.zeros(num_slots, np.int32)
        self._seeds = np.zeros(num_slots, np.int64)
        self._output_from = np.zeros(num_slots, np.int32)
        self._is_stale = False
        self._fresh: set[int] = set()  # slots with a new history
        self._biases: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = {}  # not yet sent

        def table(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.tables = SlotTables(
            real=self._sent(self._real),
            top_k=table(num_slots),
            seeds=table(num_slots, dtype=torch.int64),
            output_from=table(num_slots),
            num_biases=table(num_slots),
            num_taken=table(num_slots),
            seen=table(num_slots, -(-vocab_size // 32)),
            counts=table(num_slots, vocab_size),
            bias_ids=table(num_slots, bias_room),
            bias_values=table(num_slots, bias_room, dtype=torch.float32),
        )

    def put(self, slot: int, params: RowParams, output_from: int) -> bool:
        """The slot now belongs to a request with these parameters. False: it needs nothing."""
        if params.is_neutral and not self._needs_something(slot):
            return False
        self._is_stale = True
        self.has_history[slot] = params.has_history
        self.has_min_p[slot] = params.has_min_p
        border = params.temperature * math.log(params.min_p) if params.has_min_p else -math.inf
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        drawn = (params.temperature, min(params.top_p, 1.0)) if params.is_drawn else NEUTRAL[4:]
        self._real[slot] = (*penalties, border, *drawn)
        self._put_draw(slot, params)
        self._output_from[slot] = output_from
        (self._fresh.add if params.has_history else self._fresh.discard)(slot)
        self._put_biases(slot, params)
        self.bans.pop(slot, None)
        if params.has_bans:
            self.bans[slot] = slot_bans(params, self._vocab_size, self._device)
        return not params.is_neutral

    def flush(self) -> None:
        """Bring the device's tables up to date. No work if nothing changed."""
        if not self._is_stale:
            return
        self._is_stale = False
        if self._fresh:
            self._begin_histories()
        tables = self.tables
        for slot, (ids, values) in self._biases.items():
            self._send(ids, tables.bias_ids[slot, : len(ids)])
            self._send(values, tables.bias_values[slot, : len(values)])
        self._biases.clear()
        self._send(self._real, tables.real)
        self._send(self._top_k, tables.top_k)
        self._send(self._seeds, tables.seeds)
        self._send(self._output_from, tables.output_from)
        self._send(self.num_biases, tables.num_biases)

    def _needs_something(self, slot: int) -> bool:
        changes = self.has_history[slot] or self.has_min_p[slot] or self.num_biases[slot]
        return bool(changes or self.is_drawn[slot]) or slot in self.long_biases or slot in self.bans

    def _put_draw(self, slot: int, params: RowParams) -> None:
        self.is_drawn[slot], self.is_truncated[slot] = params.is_drawn, params.is_truncated
        self._top_k[slot] = min(max(params.top_k, 0), self._vocab_size)
        seed = np.array([params.seed or 0], np.uint64)
        self._seeds[slot] = noise.mix(seed).view(np.int64)[0]

    def _put_biases(self, slot: int, params: RowParams) -> None:
        self.long_biases.pop(slot, None)
        self._biases.pop(slot, None)
        ids = np.fromiter(params.logit_bias, np.int32)
        values = np.fromiter(params.logit_bias.values(), np.float32)
        inside = (ids >= 0) & (ids < self._vocab_size)  # an id outside must not write elsewhere
        ids, values = ids[inside], values[inside]
        is_long = len(ids) > self._bias_room
        self.num_biases[slot] = 0 if is_long else len(ids)
        if is_long:
            pinned = self._pinned
            self.long_biases[slot] = staged(ids, pinned=pinned), staged(values, pinned=pinned)
        elif len(ids):
            self._biases[slot] = ids, values

    def _begin_histories(self) -> None:
        """Clear what was seen and counted in the slots with a new history."""
        tables, fresh = self.tables, np.array(sorted(self._fresh))
        counting = fresh[(self._real[fresh, 1:3] != 0.0).any(axis=1)]
        index = self._sent(fresh)
        tables.seen.index_fill_(0, index, 0)
        tables.num_taken.index_fill_(0, index, 0)
        tables.counts.index_fill_(0, self._sent(counting), 0)
        self._fresh.clear()

    def _sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device."""
        return self._send(array, torch.empty_like(torch.from_numpy(array), device=self._device))

    def _send(self, array: npt.NDArray[Any], table: torch.Tensor) -> torch.Tensor:
        """Copy the array to the table, without waiting for the device's other work."""
        return table.copy_(staged(array, pinned=self._pinned), non_blocking=True)
