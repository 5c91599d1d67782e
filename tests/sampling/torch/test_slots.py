"""The slots' tables on the device against what was put in the slots."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampling.batch import RowParams

torch = pytest.importorskip("torch", reason="the tables' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
]

VOCAB_SIZE, NUM_SLOTS = 41, 5


def new_slots() -> Any:
    from sampling.slots import Slots

    return Slots(NUM_SLOTS, VOCAB_SIZE, torch.device("cpu"))


slot_numbers = st.integers(0, NUM_SLOTS - 1)
kinds = st.sampled_from(["neutral", "repetition", "counts", "bias", "long bias", "min_p", "all"])


def params_of(kind: str, token_id: int) -> RowParams:
    return {
        "neutral": RowParams(),
        "repetition": RowParams(repetition_penalty=2.0),
        "counts": RowParams(presence_penalty=1.0),
        "bias": RowParams({token_id: 1.0}),
        "long bias": RowParams({k: float(token_id) for k in range(token_id)}) if token_id else RowParams(),
        "min_p": RowParams(min_p=0.5, temperature=0.5),
        "all": RowParams({token_id: -1.0}, 3.0, 1.0, 1.0, 0.25),
    }[kind]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.tuples(slot_numbers, kinds, st.integers(0, 30)), st.none()), max_size=40))
def test_tables_are_the_requests(operations: list[tuple[int, str, int] | None]) -> None:
    """After any requests and flushes (None) the device knows each slot's last request, and nothing older."""
    slots, model = new_slots(), {}
    for operation in [*operations, None]:
        if operation is None:
            slots.flush()
            slots.tables.seen.fill_(-1)  # as if every token had come
            slots.tables.counts.fill_(9)
            slots.tables.num_taken.fill_(9)
            continue
        slot, kind, number = operation
        model[slot] = params_of(kind, number)
        slots.put(slot, model[slot], number)
        if model[slot].has_history:
            slots.flush()
            assert not slots.tables.seen[slot].any()
            assert int(slots.tables.num_taken[slot]) == 0
    compare_tables(slots, model)


def compare_tables(slots: Any, model: dict[int, RowParams]) -> None:
    tables = slots.tables
    rows = [int(tables.whole[slot, 1]) for slot in range(NUM_SLOTS)]
    lent = [row for row in rows if row >= 0]
    assert len(set(lent)) == len(lent) <= len(tables.counts) <= NUM_SLOTS
    assert len(tables.bias_ids) <= 2 * NUM_SLOTS * VOCAB_SIZE
    for slot, params in model.items():
        border = params.temperature * np.log(params.min_p) if params.has_min_p else -np.inf
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        np.testing.assert_allclose(tables.real[slot].numpy(), (*penalties, border), rtol=1e-6)
        assert (rows[slot] >= 0) == bool(params.frequency_penalty or params.presence_penalty)
        run = slice(*tables.whole[slot, 2:].tolist())
        listed = zip(tables.bias_ids[run].tolist(), tables.bias_values[run].tolist(), strict=True)
        assert dict(listed) == params.logit_bias


def test_biases_take_the_room_of_those_that_live() -> None:
    """Lists of many requests, one after the other in a slot, take twice the room of those that live."""
    slots = new_slots()
    for number in range(20):
        for slot in (0, 3):
            slots.put(slot, RowParams({slot: 1.0, number: 2.0, 40: float(number)}), 0)
        slots.flush()
    assert len(slots.tables.bias_ids) == len(slots.tables.bias_values) == 12


def test_counts_are_kept_for_those_that_need_them() -> None:
    """The table of counts grows with the slots that have a frequency or presence penalty; rows are reused."""
    slots = new_slots()
    tables = slots.tables

    def num_rows(slot: int, **extra_args: float) -> int:
        slots.put(slot, RowParams(**extra_args), 1)
        slots.flush()
        return len(tables.counts)

    assert num_rows(0, repetition_penalty=2.0) == 0
    assert num_rows(1, presence_penalty=1.0) == 2
    assert [num_rows(2, frequency_penalty=1.0), num_rows(2, presence_penalty=1.0)] == [2, 2]
    assert num_rows(3, frequency_penalty=1.0) == NUM_SLOTS
    assert list(tables.seen.shape) == [NUM_SLOTS, 2]
