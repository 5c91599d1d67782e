"""vLLM's sleep mode with our processor on a real GPU. Nobody else may use the GPU meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from server.weights.builtin import builtin_path
from tests.gpu import nvml
from tests.serving import ON_GPU, SMOL

if not ON_GPU:
    pytest.skip("there is no NVIDIA GPU, or no CUDA build", allow_module_level=True)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KV_CACHE_BYTES, WEIGHT_BYTES = 2**29, 250 * 2**20  # at least; 135 million parameters of two bytes
SLACK_BYTES = 128 << 20
ALL = {"seed": 7, "temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.2, "logit_bias": {260: -2.0}}


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    """The built-in model, with CUDA graphs."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    yield LLM(
        str(builtin_path(SMOL)),
        enable_sleep_mode=True,
        skip_tokenizer_init=True,
        max_model_len=512,
        gpu_memory_utilization=0.2,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        logits_processors=["sampling.runner_v2:SamplingProcessor"],
    )
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]


def texts(llm: Any) -> list[list[int]]:
    """Greedy ones and drawn ones, in one batch."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [504, 3575, 282, 4649, 314 + k]} for k in range(4)]
    params = [
        SamplingParams(
            temperature=0, max_tokens=40, ignore_eos=True, detokenize=False, extra_args=ALL if k % 2 else None
        )
        for k in range(4)
    ]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("level", [1, 2])
def test_it_wakes_as_it_was(llm: Any, level: int) -> None:
    """Asleep, weights and KV cache are not on the GPU; awake, the texts are the same. Level 2 reads the
    weights again."""
    texts(llm)  # what is compiled and cached at first is
    llm.reset_prefix_cache()
    before, awake = texts(llm), nvml.used_bytes()
    llm.sleep(level)
    asleep = nvml.used_bytes()
    assert awake - asleep > KV_CACHE_BYTES + WEIGHT_BYTES
    if level == 1:
        llm.wake_up()
    else:
        llm.wake_up(["weights"])
        llm.collective_rpc("reload_weights")
        llm.wake_up(["kv_cache"])
    assert texts(llm) == before
    assert abs(nvml.used_bytes() - awake) < SLACK_BYTES
