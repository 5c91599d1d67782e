"""The draw's kernels on a real GPU: the comparisons of sampling/torch/test_draw_kernels.py."""

from __future__ import annotations

import pytest

from tests.sampling.torch.test_draw_kernels import (
    test_a_broken_row_is_written_within_its_bounds,
    test_both_forms_draw_alike,
    test_draws_follow_the_distribution,
    test_equals_the_specification,
    test_greedy_rows_are_not_touched,
    test_one_is_greedy,
    test_rows_any_distance_apart,
    test_what_is_kept,
)

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA GPU", allow_module_level=True)
pytestmark = pytest.mark.gpu
__all__ = [
    "test_a_broken_row_is_written_within_its_bounds",
    "test_both_forms_draw_alike",
    "test_draws_follow_the_distribution",
    "test_equals_the_specification",
    "test_greedy_rows_are_not_touched",
    "test_one_is_greedy",
    "test_rows_any_distance_apart",
    "test_what_is_kept",
]


@pytest.fixture
def device() -> str:
    return "cuda"
