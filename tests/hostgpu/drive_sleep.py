"""Puts vLLM's CUDA build to sleep and wakes it, and prints what was seen, as JSON on the last line.

FAKE_GPU/run python tests/hostgpu/drive_sleep.py WORK_DIR here|process

here: the engine in this process, where its memory can be looked at. process: in one of its own, which hears
of it by calls over a socket, as from the server. Copies between host and device are real on the simulated
GPU: what the weights hold afterwards is. Kernels are not: no logit is looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(sys.argv[2] == "process"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hostgpu.kinds import ALL
from tests.tiny_llama import make_tiny_llama

NUM_TOKENS = 4


def arguments(work: Path) -> dict[str, Any]:
    return {
        "model": str(make_tiny_llama(work / "model", tokenizer_from=work)),
        "enable_sleep_mode": True,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.01,
        "max_num_seqs": 8,
        "max_model_len": 256,
        "skip_tokenizer_init": True,
        "logits_processors": ["sampling.runner_v2:SamplingProcessor"],
    }


def sampling(extra_args: dict[str, Any] | None = None) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True, detokenize=False, extra_args=extra_args
    )


def here(work: Path) -> dict[str, Any]:
    import torch
    from vllm import LLM

    llm = LLM(**arguments(work))
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    slots = runner.sampler.logits_processors[-1]._slots

    def weights() -> dict[str, str]:
        return {
            name: hashlib.sha256(weight.detach().cpu().view(torch.uint8).numpy()).hexdigest()
            for name, weight in runner.model.named_parameters()
        }

    def used() -> int:
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def generate() -> list[int]:
        prompts = [{"prompt_token_ids": [n + 1, n + 2]} for n in range(3)]
        params = [sampling(), sampling(ALL), sampling({"logit_bias": {5: 1.5}})]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    def tables_are_told() -> bool:
        """Whether the device has what the host knows of every slot."""
        tables = slots.tables
        pairs = (
            (tables.real, slots._real),
            (tables.top_k, slots._top_k),
            (tables.seeds, slots._seeds),
            (tables.output_from, slots._output_from),
            (tables.num_biases, slots.num_biases),
        )
        return all((table.cpu().numpy() == told).all() for table, told in pairs)

    address = next(runner.model.parameters()).data_ptr()
    before = weights()
    seen: dict[str, Any] = {
        "is_v2": llm.llm_engine.vllm_config.use_v2_model_runner,
        "bytes": sum(weight.nbytes for weight in runner.model.parameters()),
        "tokens": [generate()],
    }
    for level in (1, 2):
        awake = used()
        llm.sleep(level)
        asleep, was_readable = used(), is_readable(address)
        if level == 1:
            llm.wake_up()
            same = weights() == before
            reloaded = None
        else:
            llm.wake_up(["weights"])
            same = weights() == before
            llm.collective_rpc("reload_weights")
            reloaded = weights() == before
            llm.wake_up(["kv_cache"])
        seen[f"level {level}"] = {
            "freed": awake - asleep,
            "was_readable": was_readable,
            "is_readable": is_readable(address),
            "same": same,
            "reloaded": reloaded,
            "used_again": used() - asleep,
        }
        seen["tokens"].append(generate())
        seen[f"level {level}"]["tables_are_told"] = tables_are_told()
    return seen


def is_readable(address: int) -> bool:
    """Whether there is memory there: a system call says so, where an access would be a fault."""
    reading, writing = os.pipe()
    written = ctypes.CDLL(None).write(writing, ctypes.c_void_p(address), ctypes.c_size_t(1))
    os.close(reading)
    os.close(writing)
    return bool(written == 1)


async def process(work: Path) -> dict[str, Any]:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(work)))

    async def generate(name: str) -> int:
        outputs = engine.generate({"prompt_token_ids": [1, 2, 3]}, sampling(ALL), name)
        *_, last = [output async for output in outputs]
        return len(last.outputs[0].token_ids)

    async def checksums() -> Any:
        return await engine.compute_weight_checksums()

    before = await checksums()
    seen: dict[str, Any] = {"tokens": [await generate("first")], "asleep": [], "awake": [], "same": []}
    for level in (1, 2):
        await engine.sleep(level)
        seen["asleep"].append(await engine.is_sleeping())
        waiting = asyncio.create_task(generate(f"meanwhile {level}"))  # its turn comes when it is awake
        await asyncio.sleep(0.5)
        assert not waiting.done()
        if level == 1:
            seen["awake"].append(await engine.wake_up())
        else:
            await engine.wake_up(["weights"])
            await engine.collective_rpc("reload_weights")
            seen["awake"].append(await engine.wake_up(["kv_cache"]))
        seen["asleep"].append(await engine.is_sleeping())
        seen["same"].append(await checksums() == before)
        seen["tokens"] += [await waiting, await generate(f"after {level}")]
    engine.shutdown()
    return seen


if __name__ == "__main__":
    work = Path(sys.argv[1])
    found = here(work) if sys.argv[2] == "here" else asyncio.run(process(work))
    print(json.dumps(found))
