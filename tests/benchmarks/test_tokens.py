"""What a token costs in Python is measured on the code that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import inprocess, tokens
from server.weights.builtin import builtin_path

pytestmark = pytest.mark.skipif(
    not builtin_path(tokens.MODEL).is_dir(), reason="the built-in model is not prepared"
)


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_a_token_costs_something(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "STEPS", 3)
    monkeypatch.setattr(tokens, "PASSES", 1)
    assert 0 < tokens.measured(kind) < 1e6


def test_of_another_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < inprocess.of(Path(__file__).parents[2], tokens.__file__, "plain") < 1e6
