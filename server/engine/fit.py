"""Whether a model fits into its memory, and how much room is left for its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.config.model import ModelSettings
from server.config.replication import flat
from server.engine.vllm.size import engine_bytes
from server.errors import ConfigurationError
from server.weights.checkpoint import Checkpoint
from server.weights.sizes import GIB, WORK_BYTES, Cache, bytes_of_weights, cache_of, heads_of, running_dtype

MIB = 2**20
SLACK = 1e-6  # tolerance for the sum of shares
LEAST_TOKENS = 256  # with a smaller context, a start is not worth it


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of a model, in bytes of each GPU, or of the machine. dtype: in which it runs. cache: KV
    cache of a sequence; None: config.json does not say. budget: memory that the engine may use; None:
    unknown. room: the part of the budget for the KV cache. context_size: tokens of the
    longest allowed sequence."""

    settings: ModelSettings
    dtype: str
    weights: int
    cache: Cache | None
    budget: float | None
    room: float | None
    context_size: int

    def with_context(self, num_tokens: int) -> Fit:
        return replace(self, context_size=num_tokens)

    def problem(self) -> str:
        """Why a start would fail; empty: no reason is known."""
        if self.budget is not None and self.weights > self.budget:
            return (
                f"its weights take {in_words(self.weights)} as {self.dtype}, but only"
                f" {in_words(self.budget)} of memory are available. {self._remedy()}"
            )
        if self.cache is None or self.room is None:
            return ""
        if (needed := self.cache.sequence(self.context_size)) > self.room:
            longest = self.cache.longest(self.room)
            remedy = f"Set max_model_len: {longest}." if longest >= LEAST_TOKENS else self._remedy()
            return (
                f"a sequence of {self.context_size} tokens takes {in_words(needed)} of KV cache, but only"
                f" {in_words(max(0, self.room))} are left for it. {remedy}"
            )
        return ""

    def sentence(self) -> str:
        """What the model takes, and how many sequences fit."""
        said = f"{in_words(self.weights)} in memory as {self.dtype}"
        if self.cache is None:
            return f"{said}; the size of its KV cache is known only at the start"
        said += f", {in_words(self.cache.per_token)} of KV cache per token"
        if self.room is None:
            return said
        num_sequences = self.room / self.cache.sequence(self.context_size)
        return (
            f"{said}: room for {max(0, self.room) / self.cache.per_token:,.0f} tokens,"
            f" {max(0, num_sequences):.1f} sequences of {self.context_size:,}"
        )

    def _remedy(self) -> str:
        if self.settings.num_gpus > 1:
            return "Use more GPUs, or a smaller or quantized model."
        return "Use several GPUs (tensor_parallel_size), or a smaller or quantized model."


def fit(settings: ModelSettings, checkpoint: Checkpoint, context_size: int, memory: float | None) -> Fit:
    """The fit of a model. memory: bytes of each GPU; None: it runs on the CPU, where kv_cache_gib is the size
    of the KV cache."""
    dtype = running_dtype(checkpoint.directory, settings.dtype)
    shares, stages = settings.tensor_parallel_size, settings.pipeline_parallel_size
    kept_as = str(settings.engine_args.get("kv_cache_dtype", "auto"))
    cache = cache_of(checkpoint.directory, dtype, kept_as, shares, stages)
    weights = bytes_of_weights(checkpoint, dtype) // settings.num_gpus
    stated = settings.engine_args.get("kv_cache_memory_bytes")
    if memory is None:
        budget, room = None, float(stated or settings.kv_cache_gib * GIB)
    else:
        budget = memory * settings.gpu_memory_utilization
        room = float(stated or budget - weights - WORK_BYTES)
    return Fit(settings, dtype, weights, cache, budget, room, context_size)


def undivided(settings: ModelSettings, checkpoint: Checkpoint) -> str:
    """Why the model cannot be split over its GPUs; empty: it can."""
    heads, shares = heads_of(checkpoint.directory), settings.tensor_parallel_size
    if heads and heads % shares:
        return f"tensor_parallel_size is {shares}, which does not divide the model's {heads} attention heads."
    return ""


def shared_out(models: Sequence[ModelSettings], machine: float | None) -> str:
    """The memory of all models together; of those loaded on demand, one at a time counts. machine: bytes of
    its memory; None: the models run on GPUs, of which each takes gpu_memory_utilization. Raises
    ConfigurationError if that is more than there is."""
    real = [model for model in models if model.engine != "simulated"]
    stays = [model for model in real if model.load == "at_start"]
    comes = [model for model in real if model.load == "on_demand"]
    if machine is None:
        taken: dict[int, float] = {}
        for model in stays:
            for device in _devices(model):
                taken[device] = taken.get(device, 0) + model.gpu_memory_utilization
        beside = dict(taken)
        for model in comes:
            for device in _devices(model):
                most = beside.get(device, 0) + model.gpu_memory_utilization
                taken[device] = max(taken.get(device, 0), most)
        for device, share in taken.items():
            if share > 1 + SLACK:
                raise ConfigurationError(
                    f"the models on GPU {device} take {share:.2f} of its memory together; lower"
                    " gpu_memory_utilization so that the sum is at most 1, or set other devices."
                )
        most = max(taken.values(), default=0)
        return f"models take at most {most:.0%} of a GPU" if taken else "no model needs memory"
    needed = sum(_on_cpu(model) for model in stays) + max(map(_on_cpu, comes), default=0)
    if needed > machine:
        raise ConfigurationError(
            f"the models take {in_words(needed)} together, but this machine has {in_words(machine)}. Serve"
            " fewer models, or lower kv_cache_gib."
        )
    return f"all engines together take {in_words(needed)} of {in_words(machine)}"


def _on_cpu(model: ModelSettings) -> float:
    return engine_bytes(model) * model.replicas.min


def _devices(model: ModelSettings) -> Sequence[int]:
    count = model.replicas.min * model.num_gpus
    return flat(model.devices)[:count] or range(count)


def in_words(num_bytes: float) -> str:
    """A number of bytes with a fitting unit."""
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} KiB"
