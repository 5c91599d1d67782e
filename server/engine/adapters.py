"""The adapters of a model, and what its engine has to have room for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.config.model import ModelSettings
from server.errors import ConfigurationError
from server.weights.adapters import Adapter, base_of, check_adapter
from server.weights.checkpoint import Checkpoint

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
USUAL_RANK = 16  # vLLM's own, where it is told of none
MOST_SLOTS = 8  # of adapters in one step of the engine: each takes memory beside the weights
# Of adapters that an engine keeps in the machine's memory; the longest unused leave, and are read again.
KEPT_BYTES, MOST_KEPT = 4 * 2**30, 256


def read_adapters(settings: ModelSettings, checkpoint: Checkpoint) -> dict[str, Adapter]:
    """Of a model, by id. Raises ConfigurationError for one that cannot be served."""
    if not settings.adapters:
        return {}
    names = (settings.id, settings.directory.name, settings.builtin or settings.id)
    base = base_of(checkpoint.directory, names, checkpoint.weights)
    found: dict[str, Adapter] = {}
    for one in settings.adapters:
        found[one.id] = adapter = check_adapter(one.id, one.path, base, one.sha256)
        if sum(other.number == adapter.number for other in found.values()) > 1:
            raise ConfigurationError(f"adapter {one.id}: choose another id: its number is another one's.")
    return found


def engine_arguments(adapters: Collection[Adapter], given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's for a model with these: ranks and slots are the files', unless the model's engine_args say more.
    Raises ConfigurationError where they say too little."""
    if not adapters:
        return dict(given)
    largest = max(adapters, key=lambda one: one.rank)
    slots = given.get("max_loras") or 1 << (min(len(adapters), MOST_SLOTS) - 1).bit_length()
    num_kept = KEPT_BYTES // max(one.num_bytes for one in adapters)
    arguments = {
        "enable_lora": True,
        "max_lora_rank": next(rank for rank in RANKS if rank >= largest.rank),
        "max_loras": slots,
        "max_cpu_loras": max(slots, min(num_kept, MOST_KEPT)),
        **given,
    }
    if (rank := rank_of(arguments)) < largest.rank:
        raise ConfigurationError(
            f"adapter {largest.id} has rank {largest.rank}, and with the model's engine_args (enable_lora,"
            f" max_lora_rank) the engine has room for {rank}."
        )
    return arguments


def rank_of(arguments: Mapping[str, Any]) -> int:
    """Of the largest adapter that an engine with these arguments has room for; 0: of none."""
    rank: int = arguments.get("max_lora_rank", USUAL_RANK) if arguments.get("enable_lora") else 0
    return rank


def rank_for(adapters: Collection[Adapter]) -> int:
    """Of the largest; 0: there are none."""
    return max((one.rank for one in adapters), default=0)
