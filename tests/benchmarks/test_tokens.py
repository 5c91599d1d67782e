"""What a token costs in Python is measured on the code that is there."""

from __future__ import annotations

import pytest

from benchmarks import tokens
from server.weights.builtin import builtin_path

pytestmark = pytest.mark.skipif(
    not builtin_path(tokens.MODEL).is_dir(), reason="the built-in model is not prepared"
)


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_a_token_costs_something(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "STEPS", 3)
    monkeypatch.setattr(tokens, "PASSES", 1)
    assert 0 < tokens.measured(kind) < 1e6
