"""The arrays of a reply."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.engine.base import TopLogprobs
from server.generation.logprobs import Logprobs

NAMES = "abcdefghij"
VALUES = st.floats(-20_000, 0) | st.sampled_from([-float("inf"), -9999.0, 0.0])


@st.composite
def rows(draw: st.DrawFn) -> Logprobs:
    """One to five tokens, each with 0, 1 or 5 of the most likely ones; perhaps a first one without values."""
    width, count = draw(st.sampled_from([1, 2, 6])), draw(st.integers(1, 5))
    size, first_id = width * count, draw(st.none() | st.integers(0, 9))
    ids = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    values = draw(st.lists(VALUES, min_size=size, max_size=size))
    return Logprobs(
        NAMES, TopLogprobs(width, ids, values), [*range(count + (first_id is not None))], first_id
    )


def expected(row: Logprobs) -> list[list[Any]]:
    """Each token by itself, as the contract has it."""
    tokens, own, tops = [], [], []
    if row.first_id is not None:
        tokens, own, tops = [NAMES[row.first_id]], [None], [None]
    for k in range(0, len(row.top.token_ids), row.top.width):
        names = [NAMES[i] for i in row.top.token_ids[k : k + row.top.width]]
        values = [max(value, -9999.0) for value in row.top.logprobs[k : k + row.top.width]]
        top = dict(zip(names[1:], values[1:], strict=True))
        top[names[0]] = values[0]
        tokens, own, tops = [*tokens, names[0]], [*own, values[0]], [*tops, [*top.items()]]
    return [tokens, own, tops, row.text_offset]


def told(row: Logprobs) -> list[list[Any]]:
    arrays = row.arrays()
    assert [*arrays] == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    arrays["top_logprobs"] = [top and [*top.items()] for top in arrays["top_logprobs"]]
    return [*arrays.values()]


@given(rows())
def test_a_rows_arrays_are_those_of_its_tokens(row: Logprobs) -> None:
    """Made together they are what each token's are alone: values, order, and what is minus infinity."""
    assert told(row) == expected(row)


@given(st.lists(rows(), min_size=1, max_size=4))
def test_rows_add_up(row: list[Logprobs]) -> None:
    """Rows of the same width, one after the other, are one; what is added stays as it was."""
    same = [one for one in row if one.top.width == row[0].top.width]
    for one in same[1:]:
        one.first_id, one.text_offset = None, one.text_offset[: len(one.top.token_ids) // one.top.width]
    before = [told(one) for one in same]
    whole = same[0].copy()
    for one in same[1:]:
        whole.extend(one)
    assert told(whole) == [
        [entry for part in column for entry in part] for column in zip(*before, strict=True)
    ]
    assert [told(one) for one in same] == before


@given(rows())
def test_positions_one_by_one(row: Logprobs) -> None:
    """A row is the sum of its positions."""
    width, first = row.top.width, row.first_id is not None
    made = Logprobs(NAMES, TopLogprobs(width), row.text_offset[:first], row.first_id)
    for position, offset in enumerate(row.text_offset[first:]):
        made.append(row.top, position, offset)
    assert made == row


def test_no_tokens() -> None:
    """Four empty arrays."""
    assert told(Logprobs(NAMES, TopLogprobs(6), [])) == [[], [], [], []]
