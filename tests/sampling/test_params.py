from __future__ import annotations

import pytest

from sampling.params import LEAST_PENALTY, RowParams


@pytest.mark.parametrize(("asked", "used"), [(5e-324, LEAST_PENALTY), (1e-10, 1e-10), (2.0, 2.0)])
def test_no_penalty_makes_a_logit_infinite(asked: float, used: float) -> None:
    """5e-324 is 0 in float32, and a logit divided by it infinite."""
    assert RowParams.from_extra_args({"repetition_penalty": asked}).repetition_penalty == used
