"""What a request costs in Python is measured on the code that is there."""

from __future__ import annotations

import pytest

from benchmarks import admission
from server.weights.builtin import builtin_path

pytestmark = pytest.mark.skipif(
    not builtin_path(admission.MODEL).is_dir(), reason="the built-in model is not prepared"
)


@pytest.mark.parametrize("kind", admission.KINDS)
def test_a_request_costs_something(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REQUESTS", 4)
    monkeypatch.setattr(admission, "AT_ONCE", 2)
    monkeypatch.setattr(admission, "PASSES", 1)
    assert 0 < admission.measured(kind) < 1e6
