"""The arrays of the rows that draw against a naive model of a batch, over random updates."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from sampling import noise
from sampling.draws import OFF, Drawing, Draws
from sampling.params import RowParams

NUM_ROWS = 6


def some_row(random: Random) -> Drawing | None:
    if random.random() < 0.3:
        return None
    params = RowParams(
        temperature=random.choice([0.5, 1.0]),
        top_k=random.choice([0, -1, 5]),
        top_p=random.choice([1.0, 0.25]),
        seed=random.getrandbits(63),
    )
    return Drawing(params, random.randint(0, 3), [])


def change(draws: Draws, model: dict[int, Drawing], random: Random) -> None:
    number, other = random.randrange(NUM_ROWS), random.randrange(NUM_ROWS)
    match random.choice(["put", "remove", "move", "step"]):
        case "put":
            row = some_row(random)
            draws.put(number, row)
            model.pop(number, None)
            if row is not None:
                model[number] = row
        case "remove":
            draws.remove(number)
            model.pop(number, None)
        case "move" if number != other:
            swap = random.random() < 0.5
            draws.move(number, other, swap=swap)
            moved, replaced = model.pop(number, None), model.pop(other, None)
            model.update({other: moved} if moved else {})
            model.update({number: replaced} if replaced and swap else {})
        case "step":
            for row in model.values():
                row.output.append(1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(10))
def test_draws_are_the_naive_rows(seed: int) -> None:
    """After any updates, the arrays are those that each row's own parameters and output give."""
    random = Random(seed)
    draws, model = Draws(), dict[int, Drawing]()
    for _ in range(300):
        change(draws, model, random)
        if not model:
            assert not draws.rows
            continue
        draws.update()
        rows = [model[number] for number in sorted(model)]
        assert draws.number.tolist() == sorted(model)
        assert draws.temperature.tolist() == [row.params.temperature for row in rows]
        assert draws.top_k.tolist() == [5 if row.params.top_k == 5 else OFF for row in rows]
        assert draws.top_p.tolist() == [0.25 if row.params.top_p < 1 else np.inf for row in rows]
        assert draws.is_truncated.tolist() == [row.params.is_truncated for row in rows]
        positions = np.array([row.num_before + len(row.output) for row in rows], np.uint64)
        seeds = np.array([row.params.seed for row in rows], np.uint64)
        assert draws.key.tolist() == noise.key(seeds, positions).tolist()
