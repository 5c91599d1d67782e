"""The batch's flat arrays against a naive model of a batch, over random updates."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from sampling.batch import Batch, Row
from sampling.params import RowParams

VOCAB_SIZE, NUM_ROWS = 23, 5
NUM_UPDATES = 30


def some_ids(random: Random, most: int) -> list[int]:
    return random.choices(range(VOCAB_SIZE), k=random.randint(0, most))


def some_params(random: Random) -> RowParams:
    return RowParams(
        logit_bias={token_id: random.choice([-2.0, 3.0]) for token_id in some_ids(random, 3)},
        repetition_penalty=random.choice([1.0, 1.5]),
        frequency_penalty=random.choice([0.0, 0.5]),
        presence_penalty=random.choice([0.0, -0.5]),
        min_p=random.choice([0.0, 0.1]),
        temperature=random.choice([0.0, 0.7]),
    )


def some_update(random: Random) -> tuple:  # type: ignore[type-arg]
    """By hand, not with hypothesis, which takes twenty times as long for a tenth of the updates."""
    number = random.randrange(NUM_ROWS)
    match random.choice(["put", "remove", "move", "step"]):
        case "put":
            return "put", number, some_params(random), some_ids(random, 6), some_ids(random, 3)
        case "move":
            return "move", number, random.randrange(NUM_ROWS), random.random() < 0.5
        case "step":
            return "step", random.choices(range(VOCAB_SIZE), k=NUM_ROWS)
        case other:
            return other, number


@dataclass
class Naive:
    params: RowParams
    prompt: list[int]
    earlier: list[int]
    output: list[int]

    def pairs(self) -> dict[int, float]:
        """Token id -> times generated, of all tokens that a penalty may touch."""
        if not self.params.has_history:
            return {}
        counts = dict.fromkeys(self.prompt, 0.0) if self.params.repetition_penalty != 1.0 else {}
        for token_id in [*self.earlier, *self.output]:
            counts[token_id] = counts.get(token_id, 0.0) + 1.0
        return counts


def change(batch: Batch, model: dict[int, Naive], update: tuple) -> None:  # type: ignore[type-arg]
    match update:
        case "put", number, row_params, prompt, earlier:
            model[number] = row = Naive(row_params, prompt, earlier, [])
            batch.put(number, None if row_params.is_neutral else Row(row_params, prompt, earlier, row.output))
        case "remove", number:
            model.pop(number, None)
            batch.remove(number)
        case "move", source, target, swap if source != target:
            moved, replaced = model.pop(source, None), model.pop(target, None)
            if moved is not None:
                model[target] = moved
            if swap and replaced is not None:
                model[source] = replaced
            batch.move(source, target, swap=swap)
        case "step", tokens:
            for number, row in model.items():
                row.output.append(tokens[number])
            batch.update(VOCAB_SIZE)


def pairs_of(batch: Batch) -> dict[tuple[int, int], tuple[float, ...]]:
    n = batch.num_pairs
    found = {
        divmod(int(place), VOCAB_SIZE): values
        for place, *values in zip(
            *(
                a[:n].tolist()
                for a in (batch.index, batch.count, batch.repetition, batch.frequency, batch.presence)
            ),
            strict=True,
        )
    }
    assert len(found) == n, "a pair stands twice"
    return {pair: tuple(values) for pair, values in found.items()}


@pytest.mark.parametrize("seed", range(10))
def test_batch_is_the_naive_batch(seed: int) -> None:
    """At each step, after any updates, the pairs, biases and borders are those that each row's
    own history gives."""
    random = Random(seed)
    for _ in range(40):
        batch, model = Batch(), dict[int, Naive]()
        for _ in range(NUM_UPDATES):
            update = some_update(random)
            change(batch, model, update)
            if update[0] == "step":
                assert_equal(batch, model)


def assert_equal(batch: Batch, model: dict[int, Naive]) -> None:
    wanted = {
        (number, token_id): tuple(
            np.float32(v).item()
            for v in (
                count,
                row.params.repetition_penalty,
                row.params.frequency_penalty,
                row.params.presence_penalty,
            )
        )
        for number, row in model.items()
        for token_id, count in row.pairs().items()
    }
    assert pairs_of(batch) == wanted
    biases = {(n, t): b for n, row in model.items() for t, b in row.params.logit_bias.items()}
    assert {
        divmod(int(i), VOCAB_SIZE): float(b) for i, b in zip(batch.bias_index, batch.bias, strict=True)
    } == biases
    assert sorted(batch.min_p_rows) == sorted(n for n, row in model.items() if row.params.has_min_p)
