"""The slots' tables on the device against what was put in the slots."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampling import noise
from sampling.params import RowParams

torch = pytest.importorskip("torch", reason="the tables' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
]

VOCAB_SIZE, NUM_SLOTS, ROOM = 41, 5, 9


def new_slots() -> Any:
    from sampling.slots import Slots

    return Slots(NUM_SLOTS, VOCAB_SIZE, torch.device("cpu"), bias_room=ROOM)


slot_numbers = st.integers(0, NUM_SLOTS - 1)
kinds = st.sampled_from(["neutral", "repetition", "counts", "bias", "long bias", "min_p", "drawn", "all"])


def params_of(kind: str, token_id: int) -> RowParams:
    return {
        "neutral": RowParams(),
        "repetition": RowParams(repetition_penalty=2.0),
        "counts": RowParams(presence_penalty=1.0),
        "bias": RowParams({token_id: 1.0}),
        "long bias": RowParams({k: float(token_id) for k in range(token_id)}) if token_id else RowParams(),
        "min_p": RowParams(min_p=0.5, temperature=0.5),
        "drawn": RowParams(seed=2**63 - 1 - token_id),
        "all": RowParams({token_id: -1.0}, 3.0, 1.0, 1.0, 0.25, 0.5, 1 + token_id, 0.75, seed=token_id),
    }[kind]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.tuples(slot_numbers, kinds, st.integers(0, 30)), st.none()), max_size=40))
def test_tables_are_the_requests(operations: list[tuple[int, str, int] | None]) -> None:
    """After any requests and flushes (None) the device knows each slot's last request, and nothing older."""
    slots, model = new_slots(), {}
    begin = addresses(slots)
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
            if model[slot].frequency_penalty or model[slot].presence_penalty:
                assert not slots.tables.counts[slot].any()
    compare_tables(slots, model)
    assert addresses(slots) == begin, "a table was made anew"


def addresses(slots: Any) -> list[int]:
    return [getattr(slots.tables, name).data_ptr() for name in slots.tables.__slots__]


def compare_tables(slots: Any, model: dict[int, RowParams]) -> None:
    tables = slots.tables
    for slot, params in model.items():
        border = params.temperature * np.log(params.min_p) if params.has_min_p else -np.inf
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        drawn = (params.temperature, params.top_p) if params.is_drawn else (0.0, 1.0)
        np.testing.assert_allclose(tables.real[slot].numpy(), (*penalties, border, *drawn), rtol=1e-6)
        if params.is_drawn:
            mixed = noise.mix(np.array([params.seed], np.uint64)).view(np.int64)
            assert (int(tables.top_k[slot]), int(tables.seeds[slot])) == (params.top_k, int(mixed[0]))
        num_biases = int(tables.num_biases[slot])
        listed = tables.bias_ids[slot, :num_biases], tables.bias_values[slot, :num_biases]
        ids, values = slots.long_biases.get(slot, listed)
        assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == params.logit_bias
        assert (slot in slots.long_biases) is (len(params.logit_bias) > ROOM)


def test_all_memory_is_taken_at_the_start() -> None:
    """Requests of every kind in every slot, with lists of biases of any length, take a row of logits each at
    most, and that for no longer than a step."""
    from sampling.kernels import add_long_bias
    from tests.sampling.torch.devices import Made

    slots = new_slots()
    begin, num_bytes = addresses(slots), [getattr(slots.tables, n).nbytes for n in slots.tables.__slots__]
    everything = RowParams(dict.fromkeys(range(VOCAB_SIZE), 1.0), 2.0, 1.0, 1.0, 0.5)
    logits, row = torch.zeros(1, VOCAB_SIZE), torch.tensor([0])
    with Made() as made:
        for params in (everything, RowParams({1: 1.0}), everything):
            for slot in range(NUM_SLOTS):
                slots.put(slot, params, 1)
            slots.flush()
        add_long_bias(logits, row, 0, *slots.long_biases[0])
    assert logits.tolist() == [[1.0] * VOCAB_SIZE]
    assert addresses(slots) == begin
    assert sum(num_bytes) == NUM_SLOTS * (48 + 8 * ROOM + 4 * 2 + 4 * VOCAB_SIZE)  # 41 tokens are 2 words
    assert made.largest <= 8 * VOCAB_SIZE


def test_ids_beyond_the_vocabulary_are_left_out() -> None:
    """A bias for no token is dropped, of short lists and of long ones."""
    slots = new_slots()
    bad = {-1: 1.0, VOCAB_SIZE: 1.0}
    slots.put(0, RowParams({3: 2.0, **bad}), 0)
    slots.put(1, RowParams({**dict.fromkeys(range(ROOM + 1), 2.0), **bad}), 0)
    slots.flush()
    assert slots.num_biases.tolist() == [1, 0, 0, 0, 0]
    assert slots.long_biases[1][0].tolist() == list(range(ROOM + 1))
