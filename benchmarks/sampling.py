"""What it costs to sample the tokens of one step: our sampler, vLLM's own, and a plain copy of the logits.

    python -m benchmarks.sampling [--json FILE] [--repeats 30]

On the CPU it measures vLLM's whole V1 sampler, once with our logits processor, which samples, and once with
vLLM's own parameters, in one thread. On a GPU it measures the kernels of both (sampling_cuda.py). Each row
has 512 prompt ids and 512 generated ones. Its token probabilities fall with the square of their rank, about
as those of a language model. Times are medians, with the 10th and 90th percentile. All forms get the same
logits in turn, so that other work of the machine affects them alike.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console

from benchmarks import sampling_cuda
from benchmarks.report import machine, steps, write
from sampling.params import RowParams

ROWS = (1, 8, 64)
VOCABULARIES = (32_000, 152_000)
NUM_SEEN = 512  # prompt ids, and as many generated ones
GREEDY = RowParams()
DRAWN = RowParams(temperature=0.8, seed=1)
PARAMS = {
    "greedy": GREEDY,
    "drawn": DRAWN,
    "top_k": replace(DRAWN, top_k=50),
    "top_p": replace(DRAWN, top_p=0.9),
    "repetition": replace(GREEDY, repetition_penalty=1.1),
    "all": RowParams({7: 1.0}, 1.1, 0.1, 0.1, 0.05, 0.8, 50, 0.9, seed=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, on_gpu = Console(), torch.cuda.is_available()
    cells = []
    for vocab_size in VOCABULARIES:
        for num_rows in ROWS:
            for name, params in PARAMS.items():
                console.print(f"{num_rows} rows × {vocab_size}, {name}", style="dim")
                cell = (num_rows, vocab_size, name, params, options.repeats)
                cells.append(sampling_cuda.measure(*cell, NUM_SEEN) if on_gpu else measure(*cell))
    console.print(steps(cells))
    if options.json:
        write(options.json, {"machine": machine("sampling") | {"threads": 1}, "cells": cells})


def measure(num_rows: int, vocab_size: int, name: str, params: RowParams, repeats: int) -> dict[str, Any]:
    """Medians and percentiles in ms of a step: taking in the last tokens and choosing the next."""
    draw = np.random.default_rng(0)
    prompts = draw.integers(0, vocab_size, (num_rows, NUM_SEEN)).tolist()
    outputs = draw.integers(0, vocab_size, (num_rows, NUM_SEEN)).tolist()
    logits = torch.stack([logits_of(draw, vocab_size) for _ in range(num_rows)])
    forms: dict[str, Callable[[Any], Any]] = {
        "ours": ours(params, vocab_size, prompts, outputs),
        "native": native(params, vocab_size, prompts, outputs),
        "copy": lambda work: work.clone(),
    }
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats):
        for output in outputs:
            output.append(int(draw.integers(vocab_size)))
        for form, step in forms.items():
            work = logits.clone()
            start = time.perf_counter()
            step(work)
            times[form].append((time.perf_counter() - start) * 1000)
    spread = {form: [round(float(x), 4) for x in np.percentile(t, (50, 10, 90))] for form, t in times.items()}
    return {"rows": num_rows, "vocabulary": vocab_size, "params": name, "ms": spread}


def logits_of(draw: np.random.Generator, vocab_size: int) -> torch.Tensor:
    ranks = draw.permutation(vocab_size) + 1
    return torch.tensor(-2.0 * np.log(ranks) + draw.normal(0, 0.1, vocab_size), dtype=torch.float32)


def ours(params: RowParams, vocab_size: int, prompts: Any, outputs: Any) -> Callable[[torch.Tensor], Any]:
    """As in the server: vLLM takes the largest logit."""
    from vllm import SamplingParams

    from sampling.runner_v1 import SamplingProcessor

    extra = {name: value for name, value in asdict(params).items() if value != getattr(RowParams(), name)}
    processor = SamplingProcessor(None, torch.device("cpu"), is_pin_memory=False)
    rows = [
        SamplingParams(temperature=0, extra_args={**extra, "seed": n} if "seed" in extra else extra)
        for n in range(len(prompts))
    ]
    return sampler([processor], rows, prompts, outputs)


def native(params: RowParams, vocab_size: int, prompts: Any, outputs: Any) -> Callable[[torch.Tensor], Any]:
    """The same parameters as vLLM's own."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitBiasLogitsProcessor, MinPLogitsProcessor

    asked = SamplingParams(
        temperature=0 if params.seed is None else params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=dict(params.logit_bias) or None,
        seed=params.seed,
    )
    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=len(prompts)))
    processors = [kind(config, "cpu", False) for kind in (LogitBiasLogitsProcessor, MinPLogitsProcessor)]
    return sampler(processors, [asked] * len(prompts), prompts, outputs)


def sampler(
    processors: list[Any], rows: list[Any], prompts: Any, outputs: Any
) -> Callable[[torch.Tensor], Any]:
    """vLLM's V1 sampler over rows with equal parameters."""
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    added = [(n, params, prompts[n], outputs[n]) for n, params in enumerate(rows)]
    for processor in processors:
        processor.update_state(BatchUpdate(len(rows), removed=[], added=added, moved=[]))
    asked = rows[0]
    is_greedy, has_seed = asked.temperature == 0, asked.seed is not None

    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([getattr(params, name) for params in rows], dtype=dtype)

    penalties = [column(f"{name}_penalty") for name in ("frequency", "presence", "repetition")]
    metadata = SamplingMetadata(
        temperature=None if is_greedy else column("temperature"),
        all_greedy=is_greedy,
        all_random=not is_greedy,
        top_p=column("top_p") if asked.top_p < 1 else None,
        top_k=column("top_k", torch.int32) if asked.top_k > 0 else None,
        generators={n: torch.Generator().manual_seed(n) for n in range(len(rows))} if has_seed else {},
        max_num_logprobs=None,
        no_penalties=all(
            bool((given == neutral).all()) for given, neutral in zip(penalties, (0, 0, 1), strict=True)
        ),
        prompt_token_ids=torch.tensor(prompts),
        frequency_penalties=penalties[0],
        presence_penalties=penalties[1],
        repetition_penalties=penalties[2],
        output_token_ids=outputs,
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(processors),
    )
    step = Sampler()
    return lambda logits: step(logits, metadata)


if __name__ == "__main__":
    main()
