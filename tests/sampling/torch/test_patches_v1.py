"""Who draws in a step of vLLM's V1 runner: those that get a token."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runner's torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def runner_of(*is_thrown_away: bool) -> Any:
    """A runner in which every row has a seeded generator."""
    generators = {row: torch.Generator().manual_seed(row) for row in range(len(is_thrown_away))}
    return SimpleNamespace(
        input_batch=SimpleNamespace(generators=generators),
        discard_request_mask=SimpleNamespace(np=np.array(is_thrown_away)),
    )


def draw(runner: Any, grammar_output: Any) -> dict[int, int]:
    """As vLLM's runner: a number for each row with a generator."""
    if grammar_output == "broken":
        raise ValueError("broken")
    generators = runner.input_batch.generators
    return {row: int(torch.randint(2**31, (1,), generator=g)) for row, g in generators.items()}


def test_a_row_whose_token_is_thrown_away_draws_nothing() -> None:
    """Two chunks before a prompt's last one leave its request's draws as they are without chunks."""
    from sampling.patches_v1 import drawing_for_who_gets_it

    sample, runner, whole = drawing_for_who_gets_it(draw), runner_of(True, False), runner_of(False, False)
    for _ in range(2):
        assert sample(runner, None).keys() == {1}
    runner.discard_request_mask.np[:] = False
    assert sample(runner, None)[0] == draw(whole, None)[0]


def test_generators_come_back_after_a_failure() -> None:
    """A step that fails has taken no generator away."""
    from sampling.patches_v1 import drawing_for_who_gets_it

    runner = runner_of(True, False)
    with pytest.raises(ValueError, match="broken"):
        drawing_for_who_gets_it(draw)(runner, "broken")
    assert runner.input_batch.generators.keys() == {0, 1}


def test_vllm_still_needs_it() -> None:
    """vLLM winds generators back by an offset, and the CPU's have none. When this fails, the patch can go."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert "gen.set_offset(gen.get_offset() - 4)" in inspect.getsource(GPUModelRunner._bookkeeping_sync)
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().set_offset(0)


def test_it_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processors a process makes, the runner's method is changed once."""
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from sampling.patches_v1 import patch

    for owner, name in ((topk_topp_sampler, "apply_top_k_top_p_pytorch"), (GPUModelRunner, "sample_tokens")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # as they are now, also afterwards
    before = GPUModelRunner.sample_tokens
    patch()
    once = GPUModelRunner.sample_tokens
    patch()
    assert GPUModelRunner.sample_tokens is once is not before
    assert once.__wrapped__ is before
