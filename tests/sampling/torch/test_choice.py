"""top_k, top_p and the draw in torch, for vLLM's V1 runner, against the specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampling import reference
from sampling.draws import Drawing, Draws
from sampling.params import RowParams
from sampling.reference import Logits, Transforms
from tests.sampling.torch.inputs import drawn_logits, drawn_params

torch = pytest.importorskip("torch", reason="the draw's torch is part of the engine's packages")
pytestmark = pytest.mark.engine

VOCAB_SIZES = [5, 256, 257, 300, 5000]  # with whole blocks, without, and with a rest


def choice_of(rows: list[RowParams], position: int = 0, device: str = "cpu") -> Any:
    from sampling.choice import Choice

    draws = Draws()
    for number, params in enumerate(rows):
        draws.put(number, Drawing(params, position // 2, [0] * (position - position // 2)))
    return Choice(draws, torch.device(device))


def chosen(logits: Logits, rows: list[RowParams], position: int = 0) -> list[int]:
    """The tokens that vLLM takes, which takes the largest logits."""
    given = torch.tensor(logits, dtype=torch.float32)
    return choice_of(rows, position).apply(given).argmax(dim=-1).tolist()  # type: ignore[no-any-return]


def wanted(logits: Logits, params: RowParams, position: int = 0) -> int:
    spec = Transforms(temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
    assert params.seed is not None
    return reference.draw(reference.probabilities(logits, spec), params.seed, position)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("seed", range(10))
def test_equals_the_specification(vocab_size: int, seed: int) -> None:
    """Every row takes the reference's token, whatever its neighbours ask for; rounding moves none here."""
    rng = np.random.default_rng(seed)
    for position in range(4):
        logits = drawn_logits(rng, 6, vocab_size)
        rows = [drawn_params(rng, vocab_size) for _ in logits]
        found = chosen(logits, rows, position)
        assert found == [wanted(row, p, position) for row, p in zip(logits, rows, strict=True)]


def drawn_p(rng: np.random.Generator, logits: Logits, k: int) -> float:
    """A p that no sum of the likeliest comes near enough for float32 to decide otherwise than float64."""
    sums = np.cumsum(np.sort(reference.softmax(reference.top_k(logits, k)))[::-1])
    while np.abs(sums - (p := float(rng.uniform(0.05, 0.95)))).min() < 1e-5:
        pass
    return p


@pytest.mark.parametrize("knows_least", [True, False])
@pytest.mark.parametrize("uses", ["k", "p", "k and p", "some"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept(knows_least: bool, uses: str, seed: int) -> None:
    """What the reference keeps stays, with its weight, and nothing else; nearly every border is a tie."""
    from sampling.choice import border, keep_top

    rng = np.random.default_rng(seed)
    vocab_size = int(rng.choice([301, 3001]))
    logits = rng.integers(-6, 7, (5, vocab_size)) * rng.choice([0.25, 2.0])
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    k, p = np.full(5, vocab_size), np.full(5, np.inf)
    for row in range(5):
        if "k" in uses or (uses == "some" and row % 2):
            k[row] = rng.choice([1, 2, 17, 128])
        if "p" in uses or (uses == "some" and row % 2 == 0):
            p[row] = drawn_p(rng, logits[row], int(k[row]))
    weights = torch.tensor(logits, dtype=torch.float32).softmax(dim=-1)
    limits = torch.from_numpy(k), torch.from_numpy(p)
    most = int(k[k < vocab_size].max(initial=0))
    least = border(weights, *limits, most) if knows_least else None
    got = keep_top(weights.clone(), *limits, least)
    for row in range(5):
        kept = np.isfinite(reference.top_p(reference.top_k(logits[row], int(k[row])), float(p[row])))
        np.testing.assert_array_equal(got[row].numpy(), np.where(kept, weights[row].numpy(), 0.0))


def test_one_is_greedy() -> None:
    """top_k 1 takes the first of the largest logits, and so does a tiny top_p, whatever the seed."""
    logits = np.zeros((2, 600))
    logits[0, [7, 9, 290]], logits[1, [299, 300]] = 5.0, 1e-3
    for seed in range(20):
        for params in (RowParams(top_k=1, seed=seed), RowParams(top_p=1e-12, seed=seed)):
            assert chosen(logits, [params] * 2) == [7, 299]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_type_and_layout(dtype: Any) -> None:
    """Of a model in any type, rows that are parts of longer ones draw as the reference does."""
    longer = (4 * torch.randn(3, 704, generator=torch.Generator().manual_seed(0))).to(dtype)
    longer[:, 700:] = torch.nan
    logits = longer[..., :700].to(torch.float32)
    rows = [RowParams(seed=seed, temperature=0.8, top_p=[1.0, 0.8][seed % 2]) for seed in range(3)]
    expected = [wanted(row.double().numpy(), p) for row, p in zip(logits, rows, strict=True)]
    assert choice_of(rows).apply(logits).argmax(dim=-1).tolist() == expected


def test_the_batch_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has the same weights to the last bit alone, in any place of any batch, beside anything."""
    from sampling import choice

    rng, race, seen = np.random.default_rng(0), choice.race, list[Any]()
    monkeypatch.setattr(choice, "race", lambda *given: (seen.append(given[0].clone()), race(*given))[1])
    row, params = rng.normal(size=5003) * 3, RowParams(temperature=0.7, top_p=0.9, seed=3)
    places = [(1, 0), (2, 1), (7, 3), (40, 39)]
    for num_rows, place in places:
        batch, rows = drawn_logits(rng, num_rows, 5003), [drawn_params(rng, 5003) for _ in range(num_rows)]
        batch[place], rows[place] = row, params
        chosen(batch, rows)
    found = [tuple(weights[place].tolist()) for weights, (_, place) in zip(seen, places, strict=True)]
    assert len(set(found)) == 1


def test_greedy_rows_are_left_alone() -> None:
    """A row that draws nothing keeps every bit beside rows that draw."""
    draws_first = choice_of([RowParams(seed=1)])
    logits = torch.randn(3, 300)
    after = draws_first.apply(logits.clone())
    assert after[1:].tolist() == logits[1:].tolist()
    assert choice_of([]).apply(logits) is logits


def test_nan_stays_nan() -> None:
    """A row with NaN, all of it or one logit, raises nothing, has as many afterwards, and spoils no other."""
    logits = np.zeros((4, 300))
    logits[0], logits[1, 0], logits[2, 17] = np.nan, np.nan, np.nan
    given = torch.tensor(logits, dtype=torch.float32)
    choice_of([RowParams(seed=seed, top_p=[1.0, 0.5][seed % 2]) for seed in range(4)]).apply(given)
    assert given.isnan().sum(dim=-1).tolist() == [300, 1, 1, 0]


def test_nothing_left_is_some_token() -> None:
    """A request that has banned every token gets one of the vocabulary."""
    logits = np.full((3, 301), -np.inf)
    rows = [RowParams(seed=1), RowParams(seed=1, top_k=5), RowParams(seed=1, top_p=0.5)]
    assert all(0 <= token_id < 301 for token_id in chosen(logits, rows))


def test_all_but_one_banned() -> None:
    """The one that is left is taken, whatever the parameters."""
    logits = np.full((1, 301), -np.inf)
    logits[0, 300] = -50.0
    for seed in range(8):
        assert chosen(logits, [drawn_params(np.random.default_rng(seed), 301)]) == [300]


def test_draws_follow_the_distribution() -> None:
    """Over 10,000 draws, all of one batch, chi-square finds no fault, truncated or not."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1, 300)
    for params in (RowParams(seed=0), RowParams(seed=0, temperature=1.5, top_k=40, top_p=0.9)):
        rows = [replace(params, seed=seed) for seed in range(10_000)]
        observed = np.bincount(chosen(np.tile(logits, (10_000, 1)), rows), minlength=300)
        spec = Transforms(temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
        expected = 10_000 * reference.probabilities(logits, spec)
        kept = expected > 0
        assert not observed[~kept].any()
        # Of 10,000 right forms one would be above it, by Wilson and Hilferty; the seeds are fixed.
        degrees = int(kept.sum()) - 1
        limit = degrees * (1 - 2 / (9 * degrees) + 3.719 * np.sqrt(2 / (9 * degrees))) ** 3
        assert ((observed - expected)[kept] ** 2 / expected[kept]).sum() < limit


@pytest.mark.parametrize("is_truncated", [False, True])
def test_nothing_waits_on_a_device(is_truncated: bool) -> None:
    """On a device, each operation's tensors are that device's, and none waits for it."""
    from tests.sampling.torch.devices import OneDevice

    params = RowParams(seed=1, temperature=0.5, top_k=5 * is_truncated, top_p=1 - 0.5 * is_truncated)
    choice = choice_of([params, RowParams(seed=2)], device="meta")
    with OneDevice():
        assert choice.apply(torch.zeros(3, 704, device="meta")[:, :700]).shape == (3, 700)
