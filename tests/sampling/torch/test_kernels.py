"""The Triton kernels against the specification; tests/gpu/test_kernels_gpu.py runs the same on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sampling.params import RowParams
from tests.sampling.torch.interpreter import interpreted
from tests.sampling.torch.specification import before_temperature

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
]
__all__ = ["interpreted"]

VOCAB_SIZE = 77  # of no block's size a multiple, nor of 32
# Logits of at most 30, a bias of at most 100, counts of at most 40 times a penalty of at most 2: below 256,
# where half a bit of float32's 24 is 2**-17. Bias, quotient, product and two differences round: five times.
TOLERANCE = 5 * 2.0**-17
ALL = RowParams({3: 2.5, 76: -4.0, 31: 100.0}, 1.3, 0.7, -0.4)
Logits = npt.NDArray[np.float64]


@dataclass
class Row:
    """A request in the batch: its slot is its number. drafts: token ids that this step proposes."""

    params: RowParams
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    drafts: Sequence[int] = ()
    history: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.history = [*self.prompt, *self.output]


@pytest.fixture
def device() -> str:
    return "cpu"


def wanted(row: Row, logits: Logits, num_drafts: int = 0) -> Logits:
    """The specification's answer, after some of the drafts."""
    return before_temperature(logits, row.params, row.prompt, [*row.output, *row.drafts[:num_drafts]])


class Device:
    """The rows' tables and histories on a device, and the kernels on them. block None: each kernel's own."""

    def __init__(
        self, device: str, rows: Sequence[Row], vocab_size: int = VOCAB_SIZE, bias_room: int = 512
    ) -> None:
        from sampling import kernels
        from sampling.slots import Slots

        self.kernels, self.device, self.rows = kernels, device, rows
        self.slots = Slots(len(rows), vocab_size, torch.device(device), bias_room)
        for number, row in enumerate(rows):
            self.slots.put(number, row.params, len(row.prompt))
        self.slots.flush()

    def ints(self, values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def take_in(self, block: int | None = None) -> None:
        longest = max(len(row.history) for row in self.rows)
        histories = self.ints([row.history + [0] * (longest + 1 - len(row.history)) for row in self.rows])
        lengths = self.ints([len(row.history) for row in self.rows])
        slots = self.ints(list(range(len(self.rows))))
        self.kernels.take_in(self.slots.tables, slots, histories, lengths, **_block(block))

    def apply(self, logits: Logits, block: int | None = None) -> Logits:
        """One row of logits for each row and draft: what becomes of it."""
        got = torch.tensor(logits, dtype=torch.float32, device=self.device)
        self.apply_to(got, block)
        result: Logits = got.cpu().numpy().astype(np.float64)
        return result

    def apply_to(self, got: Any, block: int | None = None) -> None:
        places = [(n, k) for n, row in enumerate(self.rows) for k in range(len(row.drafts) + 1)]
        slots, local_pos = self.ints([n for n, _ in places]), self.ints([k for _, k in places])
        input_ids = self.ints([self.rows[n].drafts[k - 1] if k else 0 for n, k in places])
        kernels, tables, options = self.kernels, self.slots.tables, _block(block)
        if any(row.params.has_history for row in self.rows):
            self.take_in(block)
        most = max(len(row.params.logit_bias) for row in self.rows)
        if most:
            kernels.add_bias(got, tables, slots, most, **options)
        for slot, biases in self.slots.long_biases.items():
            kernels.add_long_bias(got, slots, slot, *biases)
        maxima = kernels.penalise(got, tables, slots, local_pos, input_ids, **options)
        kernels.mask_min_p(got, tables, slots, maxima, **options)


def _block(block: int | None) -> dict[str, int]:
    return {} if block is None else {"block": block}


def drawn_rows(seed: int, num_rows: int, vocab_size: int = VOCAB_SIZE) -> list[Row]:
    """Rows of every kind: neutral, with one transform, with all but min_p, which has tests of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        kinds = [{}, {"repetition_penalty": 1.5}, {"frequency_penalty": 0.3}, {"presence_penalty": -0.5}]
        params = [*(RowParams(**kind) for kind in kinds), RowParams({0: 1.0}), ALL][number % 6]
        prompt, output = (rng.integers(0, vocab_size, rng.integers(0, 20)).tolist() for _ in range(2))
        rows.append(Row(params, prompt, output))
    return rows


def drawn_logits(seed: int, num_rows: int, vocab_size: int = VOCAB_SIZE) -> Logits:
    """Logits up to 30, as float32 has them; some 0, some banned."""
    rng = np.random.default_rng(seed)
    logits = rng.uniform(-30, 30, (num_rows, vocab_size)).astype(np.float32).astype(np.float64)
    logits[rng.random(logits.shape) < 0.1] = 0.0
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    return logits


@pytest.mark.parametrize("block", [2, 32, 64, 128, None])
def test_equals_the_specification(device: str, block: int | None) -> None:
    """Every row comes out as the reference has it, in blocks of any size, whatever its neighbours ask for."""
    rows, logits = drawn_rows(1, 7), drawn_logits(2, 7)
    got = Device(device, rows).apply(logits, block)
    for row, before, after in zip(rows, logits, got, strict=True):
        np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


def test_neutral_rows_are_not_touched(device: str) -> None:
    """A row that needs nothing keeps every bit, NaN included, beside rows that need everything."""
    logits = drawn_logits(3, 3)
    logits[1, 5] = np.nan
    full = replace(ALL, min_p=0.2)
    got = Device(device, [Row(full, [1], [2]), Row(RowParams(), [1], [2]), Row(full)]).apply(logits, 16)
    np.testing.assert_array_equal(got[1], logits[1])
    assert np.isneginf(got[0]).sum() > np.isneginf(logits[0]).sum()


@pytest.mark.parametrize("block", [2, 64])
def test_history_is_taken_in_as_it_grows(device: str, block: int) -> None:
    """Tokens are counted once each, however many come between two steps, none included."""
    rows = drawn_rows(4, 6)
    on_device = Device(device, rows)
    for new in (0, 1, 9, 0, 2):
        for number, row in enumerate(rows):
            row.output = [*row.output, *((number * 31 + 7 * k + new) % VOCAB_SIZE for k in range(new))]
            row.history = [*row.prompt, *row.output]
        logits = drawn_logits(new, 6)
        got = on_device.apply(logits, block)
        for row, before, after in zip(rows, logits, got, strict=True):
            np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


def test_every_bit_is_its_token(device: str) -> None:
    """Each token of the vocabulary sets its own bit, the sign bit of a word included, and no other."""
    rows = [Row(RowParams(repetition_penalty=2.0), [token_id]) for token_id in range(VOCAB_SIZE)]
    got = Device(device, rows).apply(np.ones((VOCAB_SIZE, VOCAB_SIZE)), 32)
    np.testing.assert_array_equal(got, np.where(np.eye(VOCAB_SIZE), 0.5, 1.0))


def test_ids_beyond_the_vocabulary_change_nothing(device: str) -> None:
    """An id that no logit has is left out: it marks no token of this slot or another."""
    rows = [Row(ALL, [-1, VOCAB_SIZE, 2**31 - 1], [VOCAB_SIZE + 3, -7, 5]), Row(ALL, [], [])]
    on_device = Device(device, rows)
    on_device.take_in()
    tables = on_device.slots.tables
    assert tables.counts.nonzero().tolist() == [[0, 5]]
    assert tables.seen.nonzero().tolist() == [[0, 0]]
    assert int(tables.seen[0, 0]) == 1 << 5


def test_prompt_matters_to_repetition_alone(device: str) -> None:
    """Frequency and presence leave tokens of the prompt as they are; repetition does not."""
    logits = np.full((3, VOCAB_SIZE), 4.0)
    rows = [
        Row(RowParams(**{name: 2.0}), [8])
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")
    ]
    got = Device(device, rows).apply(logits)
    assert got[:, 8].tolist() == [2.0, 4.0, 4.0]


@pytest.mark.parametrize("block", [2, 128])
def test_drafts_before_a_row_are_output(device: str, block: int) -> None:
    """Of a request with draft tokens, row k counts the first k as output, seen or not, twice or once."""
    rows = [
        Row(ALL, [1, 2], [3, 3], drafts=[3, 40, 40, 2]),
        Row(RowParams(), [1], [2], drafts=[5]),
        Row(RowParams(repetition_penalty=0.5), [1], [2], drafts=[50, 1]),
        Row(RowParams(presence_penalty=1.5), [1], [2], drafts=[60]),
    ]
    logits = drawn_logits(5, 12)
    got = iter(zip(Device(device, rows).apply(logits, block), logits, strict=True))
    for row in rows:
        for num_drafts in range(len(row.drafts) + 1):
            after, before = next(got)
            np.testing.assert_allclose(after, wanted(row, before, num_drafts), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, VOCAB_SIZE])
@pytest.mark.parametrize("block", [1, 2, 64])
@pytest.mark.parametrize("room", [1, 2, VOCAB_SIZE])
def test_bias_lists_of_any_length(device: str, length: int, block: int, room: int) -> None:
    """A list may be as long as the vocabulary, whatever room a slot has, and each row has its own."""
    rows = [
        Row(RowParams({(token_id + 9 * n) % VOCAB_SIZE: token_id / 4 - 3 for token_id in range(length - n)}))
        for n in range(min(length, 3))
    ]
    logits = drawn_logits(6, len(rows))
    got = Device(device, rows, bias_room=room).apply(logits, block)
    for row, before, after in zip(rows, logits, got, strict=True):
        np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("block", [4, 32, 64, 128])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_min_p_keeps_the_same_tokens(device: str, block: int, temperature: float) -> None:
    """Of eighths, none of which rounds to the border, those are kept that the reference keeps, unchanged."""
    logits = np.random.default_rng(7).integers(-80, 80, (5, VOCAB_SIZE)) / 8
    logits[2, 3] = -np.inf
    values = [0.01, 0.3, 1.0, 0.0, 1e-30]
    rows = [Row(RowParams(min_p=value, temperature=temperature)) for value in values]
    got = Device(device, rows).apply(logits, block)
    for row, before, after in zip(rows, logits, got, strict=True):
        np.testing.assert_array_equal(after, wanted(row, before))


def test_min_p_is_measured_from_the_penalised_maximum(device: str) -> None:
    """The border lies under the largest logit that bias and penalties have left, whatever its block."""
    logits = np.zeros((2, VOCAB_SIZE))
    logits[:, 70], logits[:, 10] = 12.0, 5.0
    params = RowParams({20: 4.0}, repetition_penalty=6.0, min_p=0.5)
    got = Device(device, [Row(params, [70]), Row(replace(params, repetition_penalty=1.0), [70])]).apply(
        logits, 8
    )
    assert [np.flatnonzero(np.isfinite(row)).tolist() for row in got] == [[10], [70]]


def test_ties_of_the_largest_stay(device: str) -> None:
    """min_p 1 keeps all of the largest logits, in different blocks too; greedy requests have no min_p."""
    logits = np.zeros((2, VOCAB_SIZE))
    logits[:, [0, 40, 76]] = 3.25
    rows = [Row(RowParams(min_p=1.0)), Row(RowParams(min_p=1.0, temperature=0.0))]
    got = Device(device, rows).apply(logits, 16)
    assert np.flatnonzero(np.isfinite(got[0])).tolist() == [0, 40, 76]
    np.testing.assert_array_equal(got[1], logits[1])


def test_all_but_one_banned(device: str) -> None:
    """Banned logits stay banned through every kernel; the one that is left keeps its place."""
    logits = np.full((2, VOCAB_SIZE), -np.inf)
    logits[0, 33] = -2.0
    rows = [Row(replace(ALL, min_p=0.5), [33, 4], [33, 5])] * 2
    got = Device(device, rows).apply(logits, 32)
    np.testing.assert_allclose(got[0], wanted(rows[0], logits[0]), atol=TOLERANCE, rtol=0)
    assert np.isneginf(got[1]).all()


def test_offsets_have_64_bits(device: str, tmp_path: Path) -> None:
    """Rows that begin beyond 2**31 logits are found: here by a stride of 2**30, over a file with holes."""
    if device != "cpu":
        pytest.skip("on a GPU a test of its own has that much memory")
    stride, rows = 2**30, [Row(replace(ALL, min_p=0.2), [5], [6, 31, 31])] * 3
    on_device, logits = Device(device, rows), drawn_logits(8, 3)
    wide = np.memmap(tmp_path / "logits", np.float32, "w+", shape=(2 * stride + VOCAB_SIZE,))
    there = torch.from_numpy(wide).as_strided((3, VOCAB_SIZE), (stride, 1))
    there.copy_(torch.tensor(logits))
    on_device.take_in()
    slots, none = on_device.ints([0, 1, 2]), on_device.ints([0, 0, 0])
    kernels, tables = on_device.kernels, on_device.slots.tables
    kernels.add_bias(there, tables, slots, 3)
    kernels.mask_min_p(there, tables, slots, kernels.penalise(there, tables, slots, none, none))
    for row, before, after in zip(rows, logits, there.numpy(), strict=True):
        np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("vocab_size", [128, 129, 144, 65_537])
def test_rows_any_distance_apart(device: str, vocab_size: int) -> None:
    """Rows that are a part of longer ones come out as the reference has them; what lies between is left."""
    rows, logits = drawn_rows(9, 6, vocab_size), drawn_logits(10, 6, vocab_size)
    longer = torch.full((6, -(-vocab_size // 64) * 64), torch.nan, device=device)
    part = longer[:, :vocab_size]
    part.copy_(torch.tensor(logits))
    Device(device, rows, vocab_size).apply_to(part)
    assert int(longer.isnan().sum()) == longer.numel() - part.numel()
    for row, before, after in zip(rows, logits, part.cpu().numpy(), strict=True):
        np.testing.assert_allclose(after, wanted(row, before), atol=TOLERANCE, rtol=0)


def test_launchers_refuse_what_the_kernels_cannot_read(device: str) -> None:
    """Logits of another type, with gaps or of more tokens than the tables are our own mistakes: asserted."""
    on_device = Device(device, [Row(ALL, [1], [2])])
    kernels, tables, none = on_device.kernels, on_device.slots.tables, on_device.ints([0])
    good = torch.zeros(1, VOCAB_SIZE, device=device)
    for bad in (good.half(), torch.zeros(1, 2 * VOCAB_SIZE, device=device)[:, ::2], good.repeat(1, 2)):
        with pytest.raises(AssertionError):
            kernels.penalise(bad, tables, none, none, none)
