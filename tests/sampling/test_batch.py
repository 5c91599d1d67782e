"""The batch's flat arrays against a naive model of a batch, over random updates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sampling.batch import Batch, Row, RowParams

VOCAB_SIZE, NUM_ROWS = 23, 5
ids = st.integers(0, VOCAB_SIZE - 1)
numbers = st.integers(0, NUM_ROWS - 1)
params = st.builds(
    RowParams,
    logit_bias=st.dictionaries(ids, st.sampled_from([-2.0, 3.0]), max_size=3),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, -0.5]),
    min_p=st.sampled_from([0.0, 0.1]),
    temperature=st.sampled_from([0.0, 0.7]),
)
updates = st.lists(
    st.one_of(
        st.tuples(st.just("put"), numbers, params, st.lists(ids, max_size=6), st.lists(ids, max_size=3)),
        st.tuples(st.just("remove"), numbers),
        st.tuples(st.just("move"), numbers, numbers, st.booleans()),
        st.tuples(st.just("step"), st.lists(ids, min_size=NUM_ROWS, max_size=NUM_ROWS)),
    ),
    max_size=25,
)


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
            batch.update()


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


@settings(max_examples=1000, deadline=None)
@given(updates)
def test_batch_is_the_naive_batch(changes: list[tuple]) -> None:  # type: ignore[type-arg]
    """After any updates the pairs, biases and borders are those that each row's own history gives."""
    batch, model = Batch(VOCAB_SIZE), {}
    for update in changes:
        change(batch, model, update)
    batch.update()
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
