"""top_k and top_p where logits tie: in torch, ours for the CPU, and in Triton, vLLM's for a GPU."""

from __future__ import annotations

import builtins
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sampling import reference
from sampling.reference import Logits
from tests.sampling.torch.interpreter import IS_CHILD, interpreted

torch = pytest.importorskip("torch", reason="the sampler's torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # vLLM's kernel subtracts infinities
]
__all__ = ["interpreted"]

VOCAB_SIZE, NUM_ROWS = 301, 5  # of no tile's size a multiple; a tile of vLLM's kernel has 256 there


def ours(logits: Any, k: Any, p: Any) -> Any:
    from sampling.truncation import keep_top

    return keep_top(logits, k, p)


def vllms(logits: Any, k: Any, p: Any) -> Any:
    kernel = _vllms_kernel()
    return kernel(logits, k, p)


def _vllms_kernel() -> Any:
    """vLLM's launcher, talked into Triton without a GPU: in this child process alone."""
    assert IS_CHILD
    from triton.backends import backends
    from triton.runtime import interpreter

    class Int(int):
        def to(self, _: Any) -> Int:
            return self

    backends.setdefault("cpu", SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True)))
    # Compiled, a loop's counter is a tensor; interpreted it is a number, and the kernel casts it.
    interpreter.range = lambda *limits: map(Int, builtins.range(*limits))  # type: ignore[attr-defined]
    from vllm.v1.sample.ops import topk_topp_triton

    topk_topp_triton.num_compute_units = lambda _: 2  # so that a program has several rows
    return topk_topp_triton.apply_top_k_top_p_triton


def drawn(seed: int) -> Logits:
    """Rows of few different logits, so that nearly every border is a tie; some tokens are banned."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-6, 7, (NUM_ROWS, VOCAB_SIZE)) / 4
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    return logits


def drawn_p(rng: np.random.Generator, logits: Logits, k: int) -> float:
    """A p that no sum of the likeliest comes near enough for float32 to decide otherwise than float64."""
    sums = np.cumsum(np.sort(reference.softmax(reference.top_k(logits, k)))[::-1])
    while np.abs(sums - (p := float(np.float32(rng.uniform(0.05, 0.95))))).min() < 1e-5:
        pass
    return p


@pytest.mark.parametrize("sampler", [ours, vllms])
@pytest.mark.parametrize("uses", ["k", "p", "k and p", "some"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_specification(sampler: Any, uses: str, seed: int) -> None:
    """What the reference keeps stays, with its logit, and nothing else; but vLLM's top_p, which finds ties by
    a logarithm of an exponential, may keep what is exactly as likely as the last."""
    rng, logits = np.random.default_rng(seed), drawn(seed)
    k, p = np.full(NUM_ROWS, VOCAB_SIZE), np.ones(NUM_ROWS)
    for row in range(NUM_ROWS):
        if "k" in uses or (uses == "some" and row % 2):
            k[row] = rng.choice([1, 2, 17, 128])
        if "p" in uses or (uses == "some" and row % 3):
            p[row] = drawn_p(rng, logits[row], int(k[row]))
    got = sampler(
        torch.tensor(logits, dtype=torch.float32),
        None if uses == "p" else torch.tensor(k, dtype=torch.int32),
        None if uses == "k" else torch.tensor(p, dtype=torch.float32),
    )
    for row in range(NUM_ROWS):
        wanted = reference.top_p(reference.top_k(logits[row], int(k[row])), float(p[row]))
        is_last = logits[row] == wanted[np.isfinite(wanted)].min()
        may_differ = is_last & np.isneginf(wanted) & (sampler is vllms and p[row] < 1.0)
        np.testing.assert_array_equal(np.where(may_differ, -np.inf, got[row].numpy()), wanted)


@pytest.mark.parametrize("sampler", [ours, vllms])
def test_one_is_greedy(sampler: Any) -> None:
    """top_k 1 keeps the first of the largest logits alone, whatever else ties with it."""
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[0, [7, 9, 290]], logits[1, [299, 300]] = 5.0, 1e-3
    got = sampler(logits, torch.tensor([1, 1], dtype=torch.int32), None)
    assert torch.isfinite(got).nonzero().tolist() == [[0, 7], [1, 299]]


def test_where_vllms_kernel_keeps_more() -> None:
    """The exception that the documents name: a row whose logits are all the same is left as it is."""
    k = torch.tensor([1], dtype=torch.int32)
    assert vllms(torch.zeros(1, VOCAB_SIZE), k, None).tolist() == [[0.0] * VOCAB_SIZE]
    assert torch.isfinite(ours(torch.zeros(1, VOCAB_SIZE), k, None)).sum() == 1


def test_nothing_left_is_left_alone() -> None:
    """Rows of a broken model, all NaN or all banned, raise nothing; of fewer tokens than k all stay."""
    logits = torch.full((3, VOCAB_SIZE), -torch.inf)
    logits[0], logits[2, 5:7] = torch.nan, 1.0
    p = torch.tensor([0.5, 0.5, 1.0])
    got = ours(logits.clone(), torch.tensor([3, 3, 3], dtype=torch.int32), p)
    assert torch.isfinite(got).nonzero().tolist() == [[2, 5], [2, 6]]


def test_vllms_own_for_the_cpu_keeps_more() -> None:
    """Why it is replaced: in vLLM's form for the CPU all that tie with the k-th stay."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_only

    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    assert torch.isfinite(apply_top_k_only(logits, torch.tensor([2]))).sum() == 3


def test_the_patch_replaces_it() -> None:
    """After the patch, which our processor makes, vLLM's V1 sampler keeps exactly k."""
    from sampling.patches_v1 import patch

    patch()  # in this child, which ends with this module
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    got = apply_top_k_top_p_pytorch(logits, torch.tensor([2]), None, allow_cpu_sync=True)
    assert torch.isfinite(got).tolist() == [[False, True, True, False]]
