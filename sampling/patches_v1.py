"""What is changed in vLLM's V1 model runner, in each process that runs a model, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sampling.truncation import keep_top

Sample = Callable[[Any, Any], Any]


def patch() -> None:
    """Change what this process has loaded of vLLM; a second time changes nothing."""
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if topk_topp_sampler.apply_top_k_top_p_pytorch is not apply_top_k_top_p_pytorch:
        topk_topp_sampler.apply_top_k_top_p_pytorch = apply_top_k_top_p_pytorch
        GPUModelRunner.sample_tokens = drawing_for_who_gets_it(GPUModelRunner.sample_tokens)


def apply_top_k_top_p_pytorch(
    logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None, allow_cpu_sync: bool = False
) -> torch.Tensor:
    """vLLM's own keeps more than k where logits tie; its kernel on a GPU does not."""
    return keep_top(logits, k, p)


def drawing_for_who_gets_it(sample_tokens: Sample) -> Sample:
    """A runner's sample_tokens, in which a row whose token is thrown away draws nothing.

    A prompt that comes in several chunks has a row in each, and all but the last are thrown away. vLLM draws
    for them from the request's seeded generator and winds that back with `set_offset`, which a generator of
    the CPU does not have: the engine would die.
    """

    @functools.wraps(sample_tokens)
    def sample(runner: Any, grammar_output: Any) -> Any:
        generators, is_thrown_away = runner.input_batch.generators, runner.discard_request_mask.np
        kept_back = {row: generators.pop(row) for row in [*generators] if is_thrown_away[row]}
        try:
            return sample_tokens(runner, grammar_output)
        finally:
            generators.update(kept_back)

    return sample
