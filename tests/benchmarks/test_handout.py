"""What handing out a step costs is measured on the code that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import handout


def test_a_token_costs_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, and in one of its own that has a checkout in its path."""
    monkeypatch.setattr(handout, "STEPS", 3)
    assert 0 < handout.measured(2, shared=False) < 1e9
    assert 0 < handout.of(Path(handout.ROOT), 1, shared=True) < 1e9
