"""The memory groups of a configuration, their models, and the memory of each."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from server.config.changes import Change, change_of
from server.config.model import ModelSettings
from server.config.sections import MemoryGroup
from server.config.settings import Settings
from server.engine.group import Group, Member, Place
from server.engine.replicas import Replicas
from server.engine.served import ServedModel
from server.engine.vllm.size import asleep_bytes, estimated_bytes, memory_bytes
from server.weights.sizes import GIB

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Resident:
    """A running model in its group. size: bytes that it takes, as far as known. move: its current move.
    num_submitted: number of its jobs at the last look. is_verified: its checksums were compared."""

    model: ServedModel
    member: Member
    group: Group
    size: float = 0.0
    move: asyncio.Task[None] | None = None
    num_submitted: int = 0
    is_verified: bool = False

    @property
    def engine(self) -> Replicas:
        return self.model.engine


@dataclass(slots=True)
class Shared:
    """A group of the configuration. models: ids. is_stated: the configuration states its memory."""

    group: Group
    models: tuple[str, ...] = ()
    is_stated: bool = False


class Shares:
    """residents: the running models."""

    def __init__(self, residents: Collection[Resident]) -> None:
        self._residents = residents
        self._shared: dict[str, Shared] = {}

    def adopt(self, settings: Settings, served: Mapping[Replicas, ServedModel]) -> None:
        """Use these groups from now on. served: the running models by their engines, some with changed
        settings. Other models that still run were removed, and stay in their group until their end."""
        for name in self._shared.keys() - settings.groups.keys():
            del self._shared[name]
        for name, asked in settings.groups.items():
            shared = self._shared.setdefault(name, Shared(Group()))
            shared.models, shared.group.min_loaded_s = asked.models, asked.min_loaded_s
        for resident in self._residents:
            if resident.engine in served:
                self._change(resident, served[resident.engine])
            else:
                resident.member.stays = False
        models = {model.id: model for model in settings.models}
        for name, asked in settings.groups.items():
            measure(self._shared[name], asked, models)
        self.fit()

    def _change(self, resident: Resident, model: ServedModel) -> None:
        """The model has these settings from now on."""
        old, was_late = resident.model.settings, resident.engine.residence.on_demand
        resident.model = model
        if old.size_gib or change_of(old, model.settings) not in (Change.NONE, Change.FRONT):
            resident.size = 0.0
        self.settle(resident)
        if was_late and resident.member.stays:
            resident.engine.residence.failure = ""
            resident.group.order(resident.member, Place.LOADED)

    def settle(self, resident: Resident) -> None:
        """Put the model into its group, by its settings."""
        settings, member = resident.model.settings, resident.member
        shared = next((one for one in self._shared.values() if settings.id in one.models), None)
        group = shared.group if shared is not None else resident.group
        if shared is None and resident.group.memory != math.inf:
            group = Group()
        if group is not resident.group:
            resident.group.remove(member)
            resident.group = group
        group.members[member.name] = member
        residence = resident.engine.residence
        residence.on_demand = settings.load == "on_demand"
        residence.is_refused &= not residence.on_demand
        member.stays = not residence.on_demand
        member.unload_after_s = settings.unload_after_s
        member.sleeps = settings.sleep_level > 0
        member.asleep_size = asleep_bytes(settings)
        if settings.size_gib:
            resident.size = settings.size_gib * GIB
        elif not resident.size:
            resident.size = float(estimated_bytes(settings))

    def fit(self) -> None:
        """Limit every size to the memory of its group: otherwise the model would wait for ever."""
        for resident in self._residents:
            member, size = resident.member, resident.size
            others = [one for one in resident.group.members.values() if one.stays and one is not member]
            room = max(resident.group.memory - sum(one.size for one in others), 0.0)
            if size > room and member.size != room:
                log.warning(
                    "model %s: it takes about %.1f GiB, and its group has %.1f GiB for it; it is loaded"
                    " when that is free, which may fail",
                    resident.model.id,
                    size / GIB,
                    room / GIB,
                )
            member.size = min(size, room)


def measure(shared: Shared, asked: MemoryGroup, models: Mapping[str, ModelSettings]) -> None:
    """Set the memory of a group. Free memory is measured only once."""
    group, was_stated = shared.group, shared.is_stated
    shared.is_stated = asked.memory_gib is not None
    if asked.memory_gib is not None:
        group.memory = asked.memory_gib * GIB
    elif was_stated or group.memory == math.inf:
        held = sum(member.held for member in group.members.values())
        group.memory = memory_bytes((models[one] for one in asked.models), held) or math.inf
