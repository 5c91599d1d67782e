"""Drives our processor on vLLM's CUDA build and prints what was seen, as JSON on the last line.

FAKE_GPU/run python tests/hostgpu/drive_runner_v2.py WORK_DIR

The device is simulated: kernels are compiled and launched and do nothing, so no logit is looked at here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where it can be watched
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hostgpu.kinds import KINDS
from tests.tiny_llama import make_tiny_llama

KERNELS = ("_take_in_kernel", "_bias_kernel", "_penalise_kernel", "_min_p_kernel")
BAN_KERNELS = ("_allow_kernel", "_bad_words_kernel")
DRAW_KERNELS = ("_limit_kernel", "_weigh_kernel", "_draw_kernel")
NUM_SLOTS = 8


def main(work: Path) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    model = make_tiny_llama(work / "model", tokenizer_from=work)
    llm = LLM(
        model=str(model),
        load_format="dummy",
        enforce_eager=True,
        gpu_memory_utilization=0.01,
        max_num_seqs=NUM_SLOTS,
        max_model_len=256,
        num_gpu_blocks_override=30,  # of 16 tokens: what the requests of "long" need together does not fit
        skip_tokenizer_init=True,
        logits_processors=["sampling.runner_v2:SamplingProcessor"],
    )
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    processor = runner.sampler.logits_processors[-1]
    watch = Watch(processor)

    def generate(kinds: list[str], prompt_length: int = 5, max_tokens: int = 4) -> dict[str, Any]:
        params = [
            SamplingParams(
                max_tokens=max_tokens,
                temperature=0,
                ignore_eos=True,
                detokenize=False,
                extra_args=extra_args or None,
            )
            for extra_args in map(KINDS.__getitem__, kinds)
        ]
        ids = [[(7 * k + n) % 1000 for k in range(prompt_length)] for n in range(len(kinds))]
        prompts = [{"prompt_token_ids": prompt} for prompt in ids]
        with watch.step() as seen:
            outputs = llm.generate(prompts, params, use_tqdm=False)
        seen["tokens"] = [len(output.outputs[0].token_ids) for output in outputs]
        return seen

    return {
        "is_v2": llm.llm_engine.vllm_config.use_v2_model_runner,
        "runner": type(runner).__module__,
        "processor": f"{type(processor).__module__}:{type(processor).__name__}",
        "device": str(runner.device),
        "unused": generate(["plain"] * 3),
        "kinds": {kind: generate([kind]) for kind in KINDS},
        "mixed": generate(list(KINDS) * 4, prompt_length=20, max_tokens=6),
        "long": generate(["all"] * NUM_SLOTS, prompt_length=20, max_tokens=60),
        "afterwards": generate(["plain"] * NUM_SLOTS),
        "tables": {
            name: [list(tensor.shape), str(tensor.dtype), tensor.is_cuda]
            for name in processor._slots.tables.__slots__
            for tensor in [getattr(processor._slots.tables, name)]
        },
        "compiled": watch.compiled(),
    }


class Watch:
    """What our kernels are launched with, and which slots are given out."""

    def __init__(self, processor: Any) -> None:
        from sampling import ban_kernels, draw_kernels, kernels

        self._kernels = {name: getattr(kernels, name) for name in KERNELS}
        self._kernels |= {name: getattr(ban_kernels, name) for name in BAN_KERNELS}
        self._kernels |= {name: getattr(draw_kernels, name) for name in DRAW_KERNELS}
        self._seen: dict[str, Any] = {}
        for name, kernel in self._kernels.items():
            kernel.add_pre_run_hook(partial(self._launched, name))
        states = processor._req_states
        add_request: Callable[[int, Any], bool] = processor.add_request

        def add(slot: int, params: Any) -> bool:
            is_used = add_request(slot, params)
            self._seen["slots"].append(slot)
            self._seen["used"].append(is_used)
            self._seen["prompt_and_history"].append(
                [int(states.prompt_len.np[slot]), int(states.prefill_len.np[slot])]
            )
            self._seen["output_from"].append(int(processor._slots._output_from[slot]))
            return is_used

        processor.add_request = add

    @contextmanager
    def step(self) -> Iterator[dict[str, Any]]:
        lists = ("elsewhere", "slots", "used", "prompt_and_history", "output_from")
        self._seen = {"launches": dict.fromkeys(self._kernels, 0), **{name: [] for name in lists}}
        yield self._seen

    def _launched(self, name: str, *args: Any, **_: Any) -> None:
        import torch

        self._seen["launches"][name] += 1
        on_host = [n for n, arg in enumerate(args) if isinstance(arg, torch.Tensor) and not arg.is_cuda]
        self._seen["elsewhere"] += [f"{name}: argument {n}" for n in on_host]

    def compiled(self) -> dict[str, list[int]]:
        """Per kernel, the target of each of its compiled variants."""
        return {
            name: [variant.metadata.target.arch for variant in kernel.device_caches[0][0].values()]
            for name, kernel in self._kernels.items()
        }


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(json.dumps(found))
