"""Verification of drafts on a real GPU: the comparisons of sampling/torch/test_speculative_v2.py."""

from __future__ import annotations

import pytest

from tests.sampling.torch.test_speculative_v2 import (
    test_a_large_batch_is_verified_in_parts,
    test_drafts_change_nothing,
    test_only_what_is_accepted_can_be_broken,
)

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA GPU", allow_module_level=True)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = [
    "test_a_large_batch_is_verified_in_parts",
    "test_drafts_change_nothing",
    "test_only_what_is_accepted_can_be_broken",
]


@pytest.fixture
def device() -> str:
    return "cuda"
