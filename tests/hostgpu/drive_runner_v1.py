"""Drives our processor on vLLM's V1 runner, CUDA build, and prints what was seen, as JSON on the last line.

FAKE_GPU/run python tests/hostgpu/drive_runner_v1.py WORK_DIR

The device is simulated: what an operation computes is not looked at, whether it takes its arguments is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where it can be watched
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hostgpu.kinds import KINDS
from tests.tiny_llama import make_tiny_llama


def main(work: Path) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    from sampling import choice
    from sampling.transforms import Transforms

    devices: set[str] = set()
    apply, race = Transforms.apply, choice.race

    def watched(self: Transforms, logits: Any) -> Any:
        after = apply(self, logits)
        devices.update(str(tensor.device) for tensor in (logits, *(sent for _, sent in self._sent.values())))
        return after

    def watched_race(*tensors: Any) -> Any:
        devices.update(str(tensor.device) for tensor in tensors)
        return race(*tensors)

    Transforms.apply = watched  # type: ignore[method-assign]
    choice.race = watched_race
    llm = LLM(
        model=str(make_tiny_llama(work / "model", tokenizer_from=work)),
        load_format="dummy",
        enforce_eager=True,
        gpu_memory_utilization=0.01,
        max_num_seqs=8,
        max_model_len=256,
        skip_tokenizer_init=True,
        logits_processors=["sampling.runner_v1:SamplingProcessor"],
    )
    params = [
        SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, detokenize=False, extra_args=extra_args)
        for extra_args in KINDS.values()
    ]
    prompts = [{"prompt_token_ids": [n + 1, n + 2, n + 3]} for n in range(len(params))]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return {
        "is_v2": llm.llm_engine.vllm_config.use_v2_model_runner,
        "devices": sorted(devices),
        "tokens": [len(output.outputs[0].token_ids) for output in outputs],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
