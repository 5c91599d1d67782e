"""The kernels on a real GPU: the comparisons of sampling/torch/test_kernels.py, and what only a GPU shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampling.params import RowParams
from tests.sampling.torch.test_kernels import (
    ALL,
    TOLERANCE,
    Device,
    Row,
    drawn_logits,
    drawn_rows,
    test_all_but_one_banned,
    test_bias_lists_of_any_length,
    test_drafts_before_a_row_are_output,
    test_equals_the_specification,
    test_every_bit_is_its_token,
    test_history_is_taken_in_as_it_grows,
    test_ids_beyond_the_vocabulary_change_nothing,
    test_launchers_refuse_what_the_kernels_cannot_read,
    test_min_p_is_measured_from_the_penalised_maximum,
    test_min_p_keeps_the_same_tokens,
    test_neutral_rows_are_not_touched,
    test_prompt_matters_to_repetition_alone,
    test_rows_any_distance_apart,
    test_ties_of_the_largest_stay,
    wanted,
)

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA GPU", allow_module_level=True)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = [
    "test_all_but_one_banned",
    "test_bias_lists_of_any_length",
    "test_drafts_before_a_row_are_output",
    "test_equals_the_specification",
    "test_every_bit_is_its_token",
    "test_history_is_taken_in_as_it_grows",
    "test_ids_beyond_the_vocabulary_change_nothing",
    "test_launchers_refuse_what_the_kernels_cannot_read",
    "test_min_p_is_measured_from_the_penalised_maximum",
    "test_min_p_keeps_the_same_tokens",
    "test_neutral_rows_are_not_touched",
    "test_prompt_matters_to_repetition_alone",
    "test_rows_any_distance_apart",
    "test_ties_of_the_largest_stay",
]

VOCAB_SIZE = 128_256 + 5  # Llama 3's, and no multiple of anything


@pytest.fixture
def device() -> str:
    return "cuda"


def test_real_sizes(device: str) -> None:
    """At 48 rows of a real vocabulary, in the kernels' own block sizes, every row is the reference's."""
    rows, logits = drawn_rows(1, 48, VOCAB_SIZE), drawn_logits(2, 48, VOCAB_SIZE)
    got = Device(device, rows, VOCAB_SIZE).apply(logits)
    for row, before, after in zip(rows, logits, got, strict=True):
        np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


def test_long_histories(device: str) -> None:
    """Lanes that mark the same words and count the same tokens at once lose nothing."""
    rng = np.random.default_rng(3)
    params = RowParams(repetition_penalty=1.5, frequency_penalty=2.0**-10)
    rows = [Row(params, [], rng.integers(0, 300, 50_000).tolist()) for _ in range(64)]
    on_device = Device(device, rows, VOCAB_SIZE)
    for _ in range(2):  # the second time nothing is new
        on_device.take_in()
    tables = on_device.slots.tables
    for number, row in enumerate(rows):
        counted = np.bincount(row.output, minlength=VOCAB_SIZE)
        assert tables.counts[number].tolist() == counted.tolist()
        bits = np.unpackbits(tables.seen[number].cpu().numpy().view(np.uint8), bitorder="little")
        assert bits[:VOCAB_SIZE].tolist() == (counted > 0).tolist()


def test_same_batch_same_bits(device: str) -> None:
    """Two runs over the same rows agree bit for bit, and so does a row among other rows."""
    rows = [Row(replace(ALL, min_p=0.1), [1, 2], [3, 3, n]) for n in range(8)]
    logits = drawn_logits(4, 8, VOCAB_SIZE)
    first, second = (Device(device, rows, VOCAB_SIZE).apply(logits) for _ in range(2))
    alone = Device(device, rows[5:6], VOCAB_SIZE).apply(logits[5:6])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[5], alone[0])


def test_offsets_have_64_bits(device: str) -> None:
    """The last of so many rows that it begins beyond 2**31 logits is treated like the first."""
    num_rows = 2**31 // VOCAB_SIZE + 2
    num_bytes = 4 * num_rows * VOCAB_SIZE
    if torch.cuda.mem_get_info()[0] < 1.1 * num_bytes:
        pytest.skip(f"the GPU has less than {num_bytes / 2**30:.0f} GiB free")
    rows = [Row(replace(ALL, min_p=0.1), [5], [6, 6])]
    on_device = Device(device, rows, VOCAB_SIZE)
    on_device.take_in()
    logits = torch.zeros(num_rows, VOCAB_SIZE, device=device)
    some: Any = torch.tensor(drawn_logits(5, 1, VOCAB_SIZE), dtype=torch.float32, device=device)
    logits[0] = logits[-1] = some[0]
    none = torch.zeros(num_rows, dtype=torch.int32, device=device)
    kernels, tables = on_device.kernels, on_device.slots.tables
    kernels.add_bias(logits, tables, none, 3)
    kernels.mask_min_p(logits, tables, none, kernels.penalise(logits, tables, none, none, none))
    assert torch.equal(logits[0], logits[-1])
    np.testing.assert_allclose(
        logits[-1].cpu().numpy(), wanted(rows[0], some[0].double().cpu().numpy()), atol=TOLERANCE, rtol=0
    )


def test_equals_vllms_own_kernels(device: str) -> None:
    """Penalties and min_p keep what vLLM's V2 kernels keep, and give the same logits within rounding."""
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from vllm.v1.worker.gpu.sample.min_p import apply_min_p
    from vllm.v1.worker.gpu.sample.penalties import apply_penalties, bincount

    rng = np.random.default_rng(6)
    params = RowParams({}, 1.25, 0.5, -0.75, min_p=0.05)
    rows = [Row(params, *(rng.integers(0, VOCAB_SIZE, 90).tolist() for _ in range(2))) for _ in range(16)]
    logits = np.repeat(rng.integers(-240, 240, (1, VOCAB_SIZE)), 16, axis=0) / 8
    ours = Device(device, rows, VOCAB_SIZE).apply(logits)

    theirs = torch.tensor(logits, dtype=torch.float32, device=device)
    slots, none = (torch.arange(16, device=device).int() * k for k in (1, 0))
    histories = torch.tensor([row.history for row in rows], dtype=torch.int32, device=device)
    seen = torch.zeros(16, -(-VOCAB_SIZE // 32), dtype=torch.int32, device=device)
    counts = torch.zeros(16, VOCAB_SIZE, dtype=torch.int32, device=device)
    bincount(slots, histories, none + 90, none + 180, seen, counts, 180)
    three = (
        torch.full((16,), value, device=device)
        for value in (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
    )
    apply_penalties(theirs, slots, none, none, *three, seen, counts)
    apply_min_p(theirs, slots, torch.full((16,), params.min_p, device=device))
    np.testing.assert_allclose(ours, theirs.cpu().numpy(), atol=TOLERANCE, rtol=0)
