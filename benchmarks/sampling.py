"""What our transforms cost for each step, beside vLLM's own code and a plain copy of the logits, in one run.

    python -m benchmarks.sampling [--json FILE] [--repeats 30]

On the CPU: ours in torch (sampling/transforms.py) against vLLM's V1 code (apply_all_penalties). One thread,
as the engine has on a machine of two cores. On a GPU: the Triton kernels of both (sampling_cuda.py). Each row
has seen 512 prompt ids and 512 generated ones. Times are medians, with the 10th and 90th percentile; every
form gets the same logits, in turn, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console

from benchmarks import sampling_cuda
from benchmarks.report import machine, steps, write
from sampling.batch import Batch, Row
from sampling.params import RowParams
from sampling.transforms import Transforms

ROWS = (1, 8, 64, 256)
VOCABULARIES = (32_000, 128_000, 152_000)
NUM_SEEN = 512  # prompt ids, and as many generated ones
PARAMS = {
    "nothing": RowParams(),
    "repetition": RowParams(repetition_penalty=1.1),
    "all": RowParams({7: 1.0}, 1.1, 0.1, 0.1, 0.05, 0.8),
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
    """Medians and percentiles, ms, of a step: taking in the last tokens and transforming the logits."""
    draw = np.random.default_rng(0)
    prompts = draw.integers(0, vocab_size, (num_rows, NUM_SEEN)).tolist()
    outputs = draw.integers(0, vocab_size, (num_rows, NUM_SEEN)).tolist()
    logits = torch.randn(num_rows, vocab_size)
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


def ours(params: RowParams, vocab_size: int, prompts: Any, outputs: Any) -> Callable[[torch.Tensor], Any]:
    batch = Batch()
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        batch.put(number, None if params.is_neutral else Row(params, prompt, [], output))
    step = Transforms(batch, torch.device("cpu")).apply
    step(torch.zeros(len(prompts), vocab_size))  # the first step lays the batch out
    return step


def native(params: RowParams, vocab_size: int, prompts: Any, outputs: Any) -> Callable[[torch.Tensor], Any]:
    """As vLLM's V1 sampler does for the same parameters: bias, penalties, min_p."""
    from vllm.v1.sample.ops.penalties import apply_all_penalties

    prompt = torch.tensor(prompts)
    presence, frequency, repetition, min_p = (
        torch.full((len(prompts),), value)
        for value in (
            params.presence_penalty,
            params.frequency_penalty,
            params.repetition_penalty,
            params.min_p,
        )
    )
    rows = torch.arange(len(prompts)).repeat_interleave(len(params.logit_bias))
    tokens = torch.tensor([*params.logit_bias] * len(prompts), dtype=torch.int64)
    bias = torch.tensor([*params.logit_bias.values()] * len(prompts))

    def step(logits: torch.Tensor) -> torch.Tensor:
        if params.logit_bias:
            logits[rows, tokens] += bias
        if params.has_history:
            logits = apply_all_penalties(logits, prompt, presence, frequency, repetition, outputs)
        if params.has_min_p:
            probabilities = torch.softmax(logits, dim=-1)
            border = probabilities.amax(dim=-1, keepdim=True).mul_(min_p[:, None])
            logits.masked_fill_(probabilities < border, -torch.inf)
        return logits

    return step


if __name__ == "__main__":
    main()
