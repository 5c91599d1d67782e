"""top_k, top_p and the draw in Triton against the specification; tests/gpu/test_draw_kernels_gpu.py runs the
same on a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from sampling import reference
from sampling.params import RowParams
from sampling.reference import Logits
from tests.sampling.torch.inputs import drawn_logits, drawn_params
from tests.sampling.torch.interpreter import interpreted
from tests.sampling.torch.specification import WON, drawn

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, of NaN and infinities
]
__all__ = ["interpreted"]

BLOCKS = [(256, 256), (512, 128), (4096, 1024)]  # of the weights, and of the search


@pytest.fixture
def device() -> str:
    return "cpu"


def slots_of(device: str, rows: list[RowParams], vocab_size: int) -> tuple[Any, Any]:
    """Slot k + 1 has the request of row k, whose output begins at position 5; and the slots of the rows."""
    from sampling.slots import Slots

    slots = Slots(len(rows) + 1, vocab_size, torch.device(device), bias_room=4)
    for number, params in enumerate(rows, start=1):
        slots.put(number, params, 5)
    slots.flush()
    return slots, torch.arange(1, len(rows) + 1, dtype=torch.int32, device=device)


def chosen(
    device: str, logits: Logits, rows: list[RowParams], position: int = 0, blocks: tuple[int, int] = BLOCKS[0]
) -> Logits:
    """What becomes of the logits."""
    from sampling.draw_kernels import choose

    slots, slot_of_row = slots_of(device, rows, logits.shape[1])
    got = torch.tensor(logits, dtype=torch.float32, device=device)
    positions = torch.full((len(rows),), 4 + position, dtype=torch.int64, device=device)
    choose(got, slots.tables, slot_of_row, positions, bool(slots.is_truncated.any()), *blocks)
    result: Logits = got.cpu().numpy().astype(np.float64)
    return result


def winners(got: Logits) -> list[int]:
    assert (got.max(axis=1) == WON).all()
    return got.argmax(axis=1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(
    "vocab_size", [5, 257, *(pytest.param(num, marks=pytest.mark.long) for num in (256, 700))]
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_equals_the_specification(device: str, vocab_size: int, seed: int, blocks: tuple[int, int]) -> None:
    """Every row takes the reference's token, and nothing else of it changes."""
    rng = np.random.default_rng(seed)
    logits = drawn_logits(rng, 4, vocab_size)
    rows = [drawn_params(rng, vocab_size) for _ in logits]
    got = chosen(device, logits, rows, seed, blocks)
    assert winners(got) == [drawn(row, p, seed) for row, p in zip(logits, rows, strict=True)]
    assert (got != logits).sum() == len(rows)


@pytest.mark.parametrize("uses", ["k", "p", "k and p"])
@pytest.mark.parametrize("block", [128, 512])
def test_what_is_kept(device: str, uses: str, block: int) -> None:
    """What the kernel's limits keep is what the reference keeps; at every border logits tie, 0 and -0 do."""
    from sampling.draw_kernels import find_limits

    rng, rows = np.random.default_rng(0), []
    logits = rng.integers(-6, 7, (6, 301)) * np.float64(-0.25)
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    for row in logits:
        k = int(rng.choice([1, 2, 17, 100])) if "k" in uses else 0
        sums = np.cumsum(np.sort(reference.softmax(reference.top_k(row, k)))[::-1])
        p = 1.0 if uses == "k" else float(sums[rng.integers(min(k or 200, 200))] - 1e-4)
        rows.append(RowParams(top_k=k, top_p=p, seed=1))
    slots, slot_of_row = slots_of(device, rows, 301)
    given = torch.tensor(logits, dtype=torch.float32, device=device)
    limits = find_limits(given, slots.tables, slot_of_row, block).cpu().numpy()
    for row, params, (pivot, last) in zip(logits, rows, limits, strict=True):
        border = np.array([pivot if pivot >= 0 else pivot ^ (2**31 - 1)], np.int32).view(np.float32)[0]
        kept = (row > border) | ((row == border) & (np.arange(301) <= last))
        expected = np.isfinite(reference.top_p(reference.top_k(row, params.top_k), params.top_p))
        assert (kept & np.isfinite(row)).tolist() == expected.tolist()


def test_one_is_greedy(device: str) -> None:
    """top_k 1 takes the first of the largest logits, and so does a tiny top_p, whatever the seed."""
    logits = np.zeros((6, 600))
    logits[:, [7, 9, 290]] = 5.0
    rows = [RowParams(top_k=1, seed=seed) for seed in range(3)]
    rows += [RowParams(top_p=1e-12, seed=seed) for seed in range(3)]
    assert winners(chosen(device, logits, rows)) == [7] * 6


def test_greedy_rows_are_not_touched(device: str) -> None:
    """A row that draws nothing keeps every bit, NaN included, beside rows that draw."""
    logits = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32).astype(np.float64)
    logits[1, 5] = np.nan
    got = chosen(device, logits, [RowParams(seed=1, top_k=4), RowParams(), RowParams(seed=2)])
    np.testing.assert_array_equal(got[1], logits[1])
    assert len(winners(got[::2])) == 2


@pytest.mark.parametrize("params", [RowParams(seed=1), RowParams(seed=1, top_k=3, top_p=0.5)])
def test_a_broken_row_is_written_within_its_bounds(device: str, params: RowParams) -> None:
    """A row of NaN, of banned tokens or with a NaN changes at most one logit of its own, and no other row."""
    logits = np.zeros((5, 300))
    logits[0], logits[2], logits[3, 7] = np.nan, -np.inf, np.nan
    got = chosen(device, logits, [params] * 5)
    assert winners(got[[1, 4]]) == [drawn(logits[1], params, 0)] * 2
    for row in (0, 2, 3):
        assert (~((got[row] == logits[row]) | (np.isnan(got[row]) & np.isnan(logits[row])))).sum() <= 1


def test_rows_any_distance_apart(device: str) -> None:
    """Rows that are a part of longer ones draw as the reference does; what lies between is left."""
    from sampling.draw_kernels import choose

    rows = [RowParams(seed=3, top_p=0.7), RowParams(seed=4)]
    logits = drawn_logits(np.random.default_rng(3), 2, 300)
    longer = torch.full((2, 320), torch.nan, device=device)
    longer[:, :300] = torch.tensor(logits)
    slots, slot_of_row = slots_of(device, rows, 300)
    choose(longer[:, :300], slots.tables, slot_of_row, slot_of_row + 4, has_limits=True)
    assert int(longer.isnan().sum()) == 40
    got = longer[:, :300].cpu().numpy().astype(np.float64)
    assert winners(got) == [drawn(logits[n], rows[n], n + 1) for n in range(2)]


# 7 and 19 degrees of freedom: of 10,000 right forms one would be above the limit; the seeds are fixed.
@pytest.mark.parametrize(
    ("num_draws", "vocab_size", "limit"),
    [(200, 8, 29.9), pytest.param(600, 20, 50.8, marks=pytest.mark.long)],
)
def test_draws_follow_the_distribution(device: str, num_draws: int, vocab_size: int, limit: float) -> None:
    """Of the draws of one batch, chi-square finds no fault."""
    logits = np.random.default_rng(4).normal(0, 1, vocab_size)
    rows = [RowParams(seed=seed, temperature=1.5) for seed in range(num_draws)]
    tiled = np.tile(logits, (num_draws, 1))
    observed = np.bincount(winners(chosen(device, tiled, rows)), minlength=vocab_size)
    expected = num_draws * reference.softmax(logits / 1.5)
    assert expected.min() > 5
    assert ((observed - expected) ** 2 / expected).sum() < limit


def test_both_forms_draw_alike(device: str) -> None:
    """The kernels and the torch form of the V1 runner take the same tokens of a vocabulary of real size."""
    from sampling.choice import Choice
    from sampling.draws import Drawing, Draws

    rng = np.random.default_rng(5)
    logits, draws = rng.normal(size=(4, 32_003)) * 3, Draws()
    rows = [drawn_params(rng, 32_003) for _ in logits]
    for number, params in enumerate(rows):
        draws.put(number, Drawing(params, 7, []))
    torchs = Choice(draws, torch.device("cpu")).apply(torch.tensor(logits, dtype=torch.float32))
    got = chosen(device, logits, rows, 7, (4096, 4096))
    assert winners(got) == torchs.argmax(dim=-1).tolist()
