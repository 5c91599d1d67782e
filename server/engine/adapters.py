"""The adapters of a model, and the room that its engine needs for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.config.model import ModelSettings
from server.errors import ConfigurationError
from server.weights.adapters import Adapter, base_of, check_adapter
from server.weights.checkpoint import Checkpoint

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM supports
USUAL_RANK = 16  # vLLM's default
MOST_SLOTS = 8  # adapters in one step of the engine: each takes memory beside the weights
# Adapters that an engine keeps in the machine's memory; the least recently used are dropped, and read again
# when needed.
KEPT_BYTES, MOST_KEPT = 4 * 2**30, 256


def read_adapters(settings: ModelSettings, checkpoint: Checkpoint) -> dict[str, Adapter]:
    """The adapters of a model, by id. Raises ConfigurationError for one that cannot be served."""
    if not settings.adapters:
        return {}
    names = (settings.id, settings.directory.name, settings.builtin or settings.id)
    base = base_of(checkpoint.directory, names, checkpoint.weights)
    found: dict[str, Adapter] = {}
    for one in settings.adapters:
        found[one.id] = adapter = check_adapter(one.id, one.path, base, one.sha256)
        if sum(other.number == adapter.number for other in found.values()) > 1:
            raise ConfigurationError(
                f"adapter {one.id}: choose another id; its internal number is the same as another adapter's."
            )
    return found


def engine_arguments(adapters: Collection[Adapter], given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's engine arguments for a model with these adapters: ranks and slots come from the files, unless
    the model's engine_args are larger. Raises ConfigurationError if they are too small."""
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
            f"adapter {largest.id} has rank {largest.rank}, but the model's engine_args (enable_lora,"
            f" max_lora_rank) allow at most {rank}."
        )
    return arguments


def rank_of(arguments: Mapping[str, Any]) -> int:
    """The largest adapter rank for which an engine with these arguments has room; 0: none."""
    rank: int = arguments.get("max_lora_rank", USUAL_RANK) if arguments.get("enable_lora") else 0
    return rank


def rank_for(adapters: Collection[Adapter]) -> int:
    """The rank of the largest adapter; 0: there are none."""
    return max((one.rank for one in adapters), default=0)
