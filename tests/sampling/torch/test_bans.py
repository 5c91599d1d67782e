"""Bans of the V1 runner against the specification, over random updates of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sampling import reference
from sampling.params import RowParams

torch = pytest.importorskip("torch", reason="the transforms' torch is part of the engine's packages")
pytestmark = pytest.mark.engine

VOCAB_SIZE, NUM_ROWS = 19, 4


def some_params(rng: np.random.Generator) -> RowParams:
    """Words of few tokens, so that some are met."""
    words = [tuple(rng.integers(0, VOCAB_SIZE, rng.integers(1, 4)).tolist()) for _ in range(30)]
    allowed = tuple(rng.permutation(VOCAB_SIZE)[: rng.integers(1, VOCAB_SIZE)].tolist())
    return RowParams(
        allowed_token_ids=allowed if rng.random() < 0.5 else (),
        bad_words=tuple(words) if rng.random() < 0.7 else (),
    )


def change(bans: Any, rows: dict[int, Any], rng: np.random.Generator) -> None:
    from sampling.bans import Ban

    number, other = rng.permutation(NUM_ROWS)[:2].tolist()
    kind = rng.choice(["put", "remove", "move", "swap"])
    if kind == "put":
        params, output = some_params(rng), list[int]()
        earlier = rng.integers(0, VOCAB_SIZE, rng.integers(0, 5)).tolist()
        bans.put(number, Ban(params, earlier, output) if params.has_bans else None)
        rows[number] = params, earlier, output
    elif kind == "remove":
        bans.remove(number)
        rows.pop(number, None)
    else:
        bans.move(number, other, swap=kind == "swap")
        moved, replaced = rows.pop(number, None), rows.pop(other, None)
        rows.update({other: moved} if moved else {})
        rows.update({number: replaced} if replaced and kind == "swap" else {})


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_the_references(seed: int) -> None:
    """Through rows that come, go and move, each gets the bans of its own history, earlier output included."""
    from sampling.bans import Bans

    rng, bans, rows = np.random.default_rng(seed), Bans(torch.device("cpu")), dict[int, Any]()
    for _ in range(400):
        change(bans, rows, rng)
        logits = np.round(rng.normal(size=(NUM_ROWS, VOCAB_SIZE)) * 4)
        padded = torch.zeros(NUM_ROWS, VOCAB_SIZE + 3)[:, :VOCAB_SIZE]  # as a float32 model's are
        got = bans.apply(padded.copy_(torch.tensor(logits))).numpy()
        for number in range(NUM_ROWS):
            params, earlier, output = rows.get(number, (RowParams(), [], []))
            wanted = reference.allowed(logits[number], params.allowed_token_ids)
            wanted = reference.bad_words(wanted, params.bad_words, [*earlier, *output])
            assert got[number].tolist() == wanted.tolist()
            output.append(int(rng.integers(VOCAB_SIZE)))
