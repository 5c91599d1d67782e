"""How much memory a model's engines take, before any has run: of its GPUs, or without GPUs of the machine."""

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
ASLEEP_BYTES = GIB  # of each of its GPUs
# Of a GPU's memory, for all engines together: each process takes a little that vLLM does not count.
SHARED = 0.97


def estimated_bytes(model: ModelSettings) -> int:
    """Of all replicas together. On a GPU an engine takes the share that it is told; 0: not known."""
    if model.engine == "simulated":
        return 0
    if installed(CPU_BUILD):
        return model.replicas.max * engine_bytes(model)
    num_gpus = model.replicas.max * model.num_gpus
    return int(model.gpu_memory_utilization * sum(gpu_bytes(flat(model.devices), num_gpus)))


def engine_bytes(model: ModelSettings) -> int:
    """Of one engine on a CPU: its weights in the type that it runs in, its KV cache, and what each has."""
    try:
        checkpoint = check_checkpoint(model.directory, weights=model.needs_weights)
    except ConfigurationError:  # it is said elsewhere
        return 0
    weights = bytes_of_weights(checkpoint, running_dtype(checkpoint.directory, model.dtype))
    return int(weights + model.kv_cache_gib * GIB + ENGINE_BYTES)


def host_memory_lacks(model: ModelSettings) -> str:
    """What the machine's memory lacks for a model's weights while it sleeps; empty: nothing, or it
    is not known."""
    try:
        checkpoint = check_checkpoint(model.directory, weights=model.needs_weights)
    except ConfigurationError:
        return ""
    weights = bytes_of_weights(checkpoint, running_dtype(checkpoint.directory, model.dtype))
    free = psutil.virtual_memory().available
    if weights <= free:
        return ""
    return (
        f"its weights take {weights / GIB:.1f} GiB of the machine's memory while it sleeps, of which"
        f" {free / GIB:.1f} are free"
    )


def asleep_bytes(model: ModelSettings) -> float:
    """Of its GPUs, that the engines of a model keep while they sleep: what CUDA and its libraries take, and
    CUDA graphs. A guess where nobody has said so."""
    if model.asleep_gib is not None:
        return model.asleep_gib * GIB
    return 0.0 if model.engine == "simulated" else model.replicas.max * model.num_gpus * ASLEEP_BYTES


def held_bytes(pid: int) -> int:
    """By a process and those that it has started, and by no other; 0: they have ended."""
    try:
        first = psutil.Process(pid)
        return sum(one.memory_full_info().uss for one in (first, *first.children(recursive=True)))
    except psutil.Error:
        return 0


def gpu_bytes(numbers: Sequence[int], count: int) -> list[int]:
    """The memory of these GPUs, or of the first ones where none are named; empty: there is nobody to say."""
    totals = memory()
    return [totals[number] for number in numbers or range(count) if number < len(totals)]


def memory_bytes(models: Iterable[ModelSettings], held: float = 0.0) -> float:
    """What models that share their devices can have, all together: what is free at the moment, and what they
    hold already, or their GPUs' memory; 0: not known."""
    if installed(CPU_BUILD):
        return psutil.virtual_memory().available + held
    totals = (gpu_bytes(flat(one.devices), one.replicas.max * one.num_gpus) for one in models)
    return SHARED * max((sum(total) for total in totals), default=0)
