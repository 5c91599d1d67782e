"""What counts as the same in a stream and in its reply."""

from __future__ import annotations

from typing import Any

import pytest

from conform.rules.folds import alike


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1], False),
        (-1.0, -1.05, True),
        (-1.0, -1.5, False),
        ({"a": -1.0, "b": -2.0}, {"a": -1.01, "c": -2.0}, True),  # another token is among the likeliest
        ({"a": -1.0}, {"b": -1.0}, False),
        ({}, {}, True),
        ({"tokens": ["a"], "text_offset": [0]}, {"tokens": ["a"]}, False),
        (None, None, True),
        (None, {"tokens": []}, False),
    ],
)
def test_alike(left: Any, right: Any, same: bool) -> None:
    """Log-probabilities may differ a little, texts and shapes not at all."""
    assert alike(left, right) is same
