"""Which changes of the configuration a running server can apply, and what they need of its engines."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel

from server.config.adapters import AdapterSettings
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.errors import ConfigurationError

# Settings that processes, sockets and connections take over when they start.
FIXED = (
    *("host", "port", "socket_mode", "tls", "admin", "workers", "cors_origins", "error_format", "attest"),
    *("max_body_bytes", "receive_timeout_s", "slow_reader_timeout_s", "tracing"),
)
# Keys of a model that do not concern its engine.
FRONT = frozenset(
    {
        *("title", "description", "owned_by", "sha256", "defaults", "limits", "best_of", "include_stop_text"),
        *("strict_fields", "allowed_keys", "adapters", "suffix_template", "single_bos"),
        *("load", "unload_after_s", "size_gib", "asleep_gib"),
    }
)
# Keys of an engine that do not change its results: another engine can continue in the middle of a text.
PLACE = frozenset(
    {
        *("max_num_seqs", "gpu_memory_utilization", "tensor_parallel_size", "pipeline_parallel_size"),
        *("devices", "standby", "kv_cache_gib", "replicas", "min_ready", "sleep_level"),
    }
)
# Keys that set the number of engines, and do not concern any single engine.
COUNT = frozenset({"replicas", "min_ready"})


class Change(Enum):
    """What a change of a model needs. NONE: nothing. FRONT: its engine stays. ENGINE: another engine of the
    same model. MODEL: another model under the same id."""

    NONE = 0
    FRONT = 1
    ENGINE = 2
    MODEL = 3


class AdapterChange(BaseModel):
    """A change of one adapter of a model. adapter: None: it is removed."""

    model: str
    id: str
    adapter: AdapterSettings | None = None

    def of(self, model: ModelSettings) -> ModelSettings:
        """The model's settings after the change. A changed adapter keeps its position."""
        found = {one.id: one for one in model.adapters}
        if self.adapter is not None:
            found[self.id] = self.adapter
        else:
            found.pop(self.id, None)
        return model.model_copy(update={"adapters": tuple(found.values())})


def change_of(old: ModelSettings, new: ModelSettings) -> Change:
    changed = _changed(old, new)
    if not changed:
        return Change.NONE
    if changed <= FRONT:
        return Change.FRONT
    return Change.ENGINE if changed <= FRONT | PLACE else Change.MODEL


def is_same_engine(old: ModelSettings, new: ModelSettings, replica: int) -> bool:
    """Whether the engine of that replica is the same with both settings."""
    return _changed(old.of_replica(replica), new.of_replica(replica)) <= FRONT | COUNT


def check_changes(old: Settings, new: Settings) -> None:
    """Raise ConfigurationError for a change that takes a restart."""
    for name in FIXED:
        if getattr(old, name) != getattr(new, name):
            raise ConfigurationError(
                f"{name} was {_shown(getattr(old, name))} when the server started, and is now"
                f" {_shown(getattr(new, name))}: this change takes a restart."
            )
    if old.attest:
        raise ConfigurationError("attest is on: a change of what the server attests takes a restart.")


def _changed(old: ModelSettings, new: ModelSettings) -> set[str]:
    return {name for name in ModelSettings.model_fields if getattr(old, name) != getattr(new, name)}


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "empty" if isinstance(value, tuple) else str(value)
