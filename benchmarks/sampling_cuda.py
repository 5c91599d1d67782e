"""benchmarks/sampling.py on a GPU: our kernels against those of vLLM's V2 model runner.

Times are the device's, between two CUDA events. Other work is queued on the device before the first event, so
that the whole step is queued when the device gets there: the times do not include the host's launches, which
are reported as host_ms. Each step has one token more than the step before. Our kernels count this token here.
vLLM counts it in the kernel that ends a step, which is not measured: this favours vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sampling.params import RowParams

Step = Callable[[torch.Tensor], Any]
HEAD_START_CYCLES = 4_000_000  # about 2 ms; the launches of a step take a tenth of that
NEUTRAL = RowParams()


def measure(
    num_rows: int, vocab_size: int, name: str, params: RowParams, repeats: int, num_seen: int
) -> dict[str, Any]:
    """Medians and percentiles in ms of a step: taking in the last tokens and choosing the next."""
    torch.manual_seed(0)
    state, context = runner_state(num_rows, vocab_size, num_seen, repeats + 2)
    logits = torch.randn(num_rows, vocab_size, device="cuda")
    forms: dict[str, Step] = {
        "ours": ours(params, state, context),
        "native": native(params, state, context),
        "copy": torch.clone,
    }
    device: dict[str, list[float]] = {form: [] for form in forms}
    host: dict[str, list[float]] = {form: [] for form in forms}
    for repeat in range(repeats + 1):
        state.total_len.gpu += 1
        for form, step in forms.items():
            device_ms, host_ms = timed(step, logits.clone())
            if repeat:  # the first one compiles
                device[form].append(device_ms)
                host[form].append(host_ms)
    head = {"rows": num_rows, "vocabulary": vocab_size, "params": name}
    return head | {"ms": spread(device), "host_ms": spread(host)}


def spread(times: dict[str, list[float]]) -> dict[str, list[float]]:
    return {form: [round(float(x), 4) for x in np.percentile(ms, (50, 10, 90))] for form, ms in times.items()}


def timed(step: Step, work: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of the device, and of the host."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    first.record()
    start = time.perf_counter()
    step(work)
    host = time.perf_counter() - start
    last.record()
    last.synchronize()
    return first.elapsed_time(last), host * 1000


def runner_state(num_rows: int, vocab_size: int, num_seen: int, room: int) -> tuple[Any, Any]:
    """The state that the V2 runner gives a processor: rows of `num_seen` prompt ids and as
    many generated ones."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    def lengths(value: int) -> Any:
        on_device = torch.full((num_rows,), value, dtype=torch.int32, device="cuda")
        return SimpleNamespace(np=np.full(num_rows, value, np.int32), gpu=on_device)

    ids = torch.randint(
        vocab_size, (num_rows, 2 * num_seen + room), dtype=torch.int32, device="cuda"
    )  # including those of later steps
    state = LogitsProcRequestState(
        device=torch.device("cuda", 0),
        max_num_reqs=num_rows,
        vocab_size=vocab_size,
        all_token_ids=SimpleNamespace(gpu=ids),
        prompt_len=lengths(num_seen),
        prefill_len=lengths(2 * num_seen),
        total_len=lengths(2 * num_seen),
    )
    rows = torch.arange(num_rows, dtype=torch.int32, device="cuda")
    context = LogitsContext(
        expanded_idx_mapping=rows,
        idx_mapping=rows,
        idx_mapping_np=np.arange(num_rows, dtype=np.int32),
        expanded_local_pos=torch.zeros_like(rows),
        input_ids=torch.zeros_like(rows),
        pos=lengths(2 * num_seen).gpu.long(),
        seq_lens_upper_bound_np=np.full(num_rows, 2 * num_seen, np.int32),
    )
    return state, context


def ours(params: RowParams, state: Any, context: Any) -> Step:
    from sampling.runner_v2 import SamplingProcessor

    extra = {name: value for name, value in asdict(params).items() if value != getattr(NEUTRAL, name)}
    processor = SamplingProcessor(None, state)
    for row in range(state.max_num_reqs):
        seed = {"seed": row} if params.is_drawn else {}
        processor.add_request(row, SimpleNamespace(temperature=0, extra_args=extra | seed))
    processor.apply_staged_writes()
    take = taking(0.0, context)
    return lambda logits: take(processor.apply(logits, context))


def taking(temperature: float, context: Any) -> Step:
    """vLLM's kernel that takes the largest logit, with noise at a temperature of one."""
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    rows = context.expanded_idx_mapping
    temperatures = torch.full((len(rows),), temperature, device="cuda")
    seeds = torch.arange(len(rows), device="cuda")
    how = {"apply_temperature": False, "is_drafting": False}
    return lambda logits: gumbel_sample(logits, rows, temperatures, seeds, context.pos, **how)


def native(params: RowParams, state: Any, context: Any) -> Step:
    """As vLLM's V2 sampler does for the same parameters."""
    from vllm import SamplingParams
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
    from vllm.v1.worker.gpu.sample.gumbel import apply_temperature
    from vllm.v1.worker.gpu.sample.logit_bias import LogitBiasState
    from vllm.v1.worker.gpu.sample.min_p import apply_min_p
    from vllm.v1.worker.gpu.sample.penalties import PenaltiesState

    asked = SamplingParams(
        temperature=params.temperature,
        logit_bias=dict(params.logit_bias) or None,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        min_p=params.min_p,
    )
    processors = [LogitBiasState(None, state), PenaltiesState(None, state)]
    for processor in processors:
        for row in range(state.max_num_reqs):
            processor.add_request(row, asked)
        processor.apply_staged_writes()
    min_p, temperatures, top_p = (
        torch.full((state.max_num_reqs,), value, device="cuda")
        for value in (params.min_p, params.temperature, params.top_p)
    )
    top_k = torch.full((state.max_num_reqs,), params.top_k, dtype=torch.int32, device="cuda")
    take = taking(params.temperature if params.is_drawn else 0.0, context)

    def step(logits: torch.Tensor) -> torch.Tensor:
        for processor in processors:
            logits = processor.apply(logits, context)
        if params.is_drawn:
            apply_temperature(logits, context.expanded_idx_mapping, temperatures)
            if params.has_min_p:
                apply_min_p(logits, context.expanded_idx_mapping, min_p)
            if params.is_truncated:
                limits = top_k if params.top_k else None, top_p if params.top_p < 1 else None
                logits = apply_top_k_top_p(logits, *limits)
        return take(logits)

    return step
