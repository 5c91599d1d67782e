"""Estimates how much memory a model's engines take before they run: of its GPUs, or without GPUs
of the machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psutil

from server.config.model import ModelSettings
from server.config.replication import flat
from server.engine.vllm.devices import memory
from server.errors import ConfigurationError
from server.observe.versions import CPU_BUILD, installed
from server.weights.checkpoint import check_checkpoint
from server.weights.sizes import GIB, bytes_of_weights, running_dtype

ENGINE_BYTES = 2 * GIB  # an engine's process without weights and KV cache
ASLEEP_BYTES = GIB  # on each of its GPUs
# Share of a GPU's memory for all engines together: each process takes a little that vLLM does not count.
SHARED = 0.97


def estimated_bytes(model: ModelSettings) -> int:
    """Bytes of all replicas together. On a GPU an engine takes its configured share; 0: unknown."""
    if model.engine == "simulated":
        return 0
    if installed(CPU_BUILD):
        return model.replicas.max * engine_bytes(model)
    num_gpus = model.replicas.max * model.num_gpus
    return int(model.gpu_memory_utilization * sum(gpu_bytes(flat(model.devices), num_gpus)))


def engine_bytes(model: ModelSettings) -> int:
    """Bytes of one engine on a CPU: its weights in its dtype, its KV cache, and its process."""
    try:
        checkpoint = check_checkpoint(model.directory, weights=model.needs_weights)
    except ConfigurationError:  # this is reported elsewhere
        return 0
    weights = bytes_of_weights(checkpoint, running_dtype(checkpoint.directory, model.dtype))
    return int(weights + model.kv_cache_gib * GIB + ENGINE_BYTES)


def host_memory_lacks(model: ModelSettings) -> str:
    """What the machine's memory lacks for a model's weights while it sleeps; empty: nothing, or unknown."""
    try:
        checkpoint = check_checkpoint(model.directory, weights=model.needs_weights)
    except ConfigurationError:
        return ""
    weights = bytes_of_weights(checkpoint, running_dtype(checkpoint.directory, model.dtype))
    free = psutil.virtual_memory().available
    if weights <= free:
        return ""
    return (
        f"while it sleeps, its weights take {weights / GIB:.1f} GiB of the machine's memory, and only"
        f" {free / GIB:.1f} GiB are free"
    )


def asleep_bytes(model: ModelSettings) -> float:
    """Bytes of its GPUs that the engines of a model keep while they sleep: CUDA, its libraries, and CUDA
    graphs. A guess if it is not configured."""
    if model.asleep_gib is not None:
        return model.asleep_gib * GIB
    return 0.0 if model.engine == "simulated" else model.replicas.max * model.num_gpus * ASLEEP_BYTES


def held_bytes(pid: int) -> int:
    """Bytes held by a process and its children alone; 0: they have ended."""
    try:
        first = psutil.Process(pid)
        return sum(one.memory_full_info().uss for one in (first, *first.children(recursive=True)))
    except psutil.Error:
        return 0


def gpu_bytes(numbers: Sequence[int], count: int) -> list[int]:
    """The memory of these GPUs, or of the first ones if none are listed; empty: unknown."""
    totals = memory()
    return [totals[number] for number in numbers or range(count) if number < len(totals)]


def memory_bytes(models: Iterable[ModelSettings], held: float = 0.0) -> float:
    """Bytes that models with the same devices may take together: what is free now plus what they hold, or
    their GPUs' memory; 0: unknown."""
    if installed(CPU_BUILD):
        return psutil.virtual_memory().available + held
    totals = (gpu_bytes(flat(one.devices), one.replicas.max * one.num_gpus) for one in models)
    return SHARED * max((sum(total) for total in totals), default=0)
