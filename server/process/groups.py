"""Loads models when they are asked for, and ends them when their memory is needed or nobody asks any more."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from server.config.settings import Settings
from server.engine.base import Phase, Status
from server.engine.group import Group, Member, Move, Place, Why
from server.engine.replicas import Replicas
from server.engine.served import ServedModel
from server.engine.vllm.size import asleep_bytes, estimated_bytes, memory_bytes
from server.errors import ConfigurationError, Failure, InvalidRequest, ServiceUnavailable
from server.http.metrics import Metrics
from server.weights.sizes import GIB

log = logging.getLogger(__name__)

LOOK_S = 0.25  # when nothing happens of which it is told


@dataclass(slots=True, eq=False)
class Resident:
    """A model that is run, in its group. move: what happens to it now. num_submitted: of its jobs, when they
    were last looked at. is_verified: its checksums are right."""

    model: ServedModel
    member: Member
    group: Group
    move: asyncio.Task[None] | None = None
    num_submitted: int = 0
    is_verified: bool = False

    @property
    def engine(self) -> Replicas:
        return self.model.engine


@dataclass(slots=True)
class Shared:
    """A group of the configuration, and its models' ids."""

    group: Group
    models: tuple[str, ...] = ()


class Groups:
    """A model that shares memory with no other has a group to itself, where there is room for it.

    verify: compares a model's checksums; raises ConfigurationError.
    """

    def __init__(self, metrics: Metrics, verify: Callable[[ServedModel], Awaitable[None]]) -> None:
        self._metrics = metrics.loads
        self._verify = verify
        self._shared: dict[str, Shared] = {}
        self._residents: dict[Replicas, Resident] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def adopt(self, settings: Settings, served: Iterable[ServedModel] = ()) -> None:
        """The groups are these from now on. served: the models that run, some with other settings."""
        for model in served:
            if (known := self._residents.get(model.engine)) is not None:
                known.member.size = 0.0
                known.model = model
        models = {model.id: model for model in settings.models}
        for name in self._shared.keys() - settings.groups.keys():
            del self._shared[name]
        for name, asked in settings.groups.items():
            if name not in self._shared:
                self._shared[name] = Shared(Group())
            shared = self._shared[name]
            shared.models, shared.group.min_loaded_s = asked.models, asked.min_loaded_s
            memory = asked.memory_gib * GIB if asked.memory_gib else 0.0
            if not memory and shared.group.memory == math.inf:
                memory = memory_bytes(models[one] for one in asked.models)
            shared.group.memory = memory or shared.group.memory
        for resident in self._residents.values():
            self._settle(resident)

    def add(self, model: ServedModel) -> None:
        """It is run from now on."""
        member = Member(f"{model.id} {next(self._numbers)}")
        resident = self._residents[model.engine] = Resident(model, member, Group())
        resident.group.members[member.name] = member
        self._settle(resident)
        residence = model.engine.residence
        residence.on_wanted = self._changed.set
        if model.settings.load == "at_start" and resident.group.memory == math.inf:
            member.place, resident.is_verified = Place.LOADED, True  # as it begins to run
            return
        residence.is_out = True
        model.engine.work.hold()
        if model.settings.load == "at_start":
            resident.group.order(member, Place.LOADED)

    async def remove(self, model: ServedModel) -> None:
        """It is run no more."""
        resident = self._residents.pop(model.engine)
        resident.group.remove(resident.member)
        if resident.move is not None:
            resident.move.cancel()
            await asyncio.gather(resident.move, return_exceptions=True)
        self._changed.set()

    def order(self, model: ServedModel, place: Place) -> None:
        """An operator's word. Raises InvalidRequest where it cannot be done."""
        resident, residence = self._residents[model.engine], model.engine.residence
        if model.engine.status.phase is Phase.FAILED:
            raise InvalidRequest(
                f"model {model.id} has failed for good: {model.engine.status.detail} Correct that, and reload"
                " the configuration",
                "state",
            )
        if place is Place.ASLEEP:
            if not resident.member.sleeps:
                raise InvalidRequest(
                    f'state (current value: "asleep") is for models with a sleep_level: model {model.id}'
                    ' ends its engine instead; ask for "unloaded"',
                    "state",
                )
            if resident.member.place is Place.UNLOADED:
                raise InvalidRequest(
                    f"model {model.id} is not loaded, and so cannot be put to sleep", "state"
                )
        residence.failure = ""
        residence.is_refused = place is not Place.LOADED and model.settings.load == "at_start"
        resident.group.order(resident.member, place)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._look()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
        finally:
            moves = [one.move for one in self._residents.values() if one.move is not None]
            for move in moves:
                move.cancel()
            await asyncio.gather(*moves, return_exceptions=True)

    def _look(self) -> None:
        now = time.monotonic()
        for resident in self._residents.values():
            self._note(resident, now)
        for group in {resident.group: None for resident in self._residents.values()}:
            residents = {one.member: one for one in self._residents.values() if one.group is group}
            for move in group.look(now):
                resident = residents[move.member]
                if move.place is not Place.LOADED:
                    resident.engine.work.hold()
                resident.move = asyncio.create_task(self._go(resident, move))
        for resident in self._residents.values():
            self._tell(resident)

    def _note(self, resident: Resident, now: float) -> None:
        """How it is with its jobs."""
        engine, member = resident.engine, resident.member
        work = engine.work
        member.running = sum(work.num_placed(number) for number in engine.supervisors)
        member.waiting = len(work) - member.running
        if work.num_submitted != resident.num_submitted or not member.is_idle:
            member.used_at = engine.residence.used_at = now
            resident.num_submitted = work.num_submitted
        if member.place is Place.ASLEEP and member.going is None and not engine.sleepers:
            resident.group.failed(member)  # its process has ended, or was of other settings
        if member.is_settled and engine.is_given_up:
            member.going = Place.UNLOADED
            resident.move = asyncio.create_task(self._give_up(resident, engine.residence.failure))

    def _tell(self, resident: Resident) -> None:
        """What its clients and its jobs have to know."""
        engine, member = resident.engine, resident.member
        engine.residence.num_before = resident.group.num_before(member)
        engine.residence.size = int(member.size)
        if member.is_leaving and not member.stays:
            engine.work.hold()
        elif member.is_settled:
            engine.work.go_on()

    def _settle(self, resident: Resident) -> None:
        """In its group, by its settings."""
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
            member.size = settings.size_gib * GIB
        elif not member.size:
            member.size = float(estimated_bytes(settings))
        member.size = self._fitting(resident, member.size)

    def _fitting(self, resident: Resident, size: float) -> float:
        """Not more than there is for it, or it would wait for ever."""
        others = resident.group.members.values()
        room = resident.group.memory - sum(
            one.size for one in others if one.stays and one is not resident.member
        )
        if size > room:
            log.warning(
                "model %s: it takes %.1f GiB, as far as is known, and its group has %.1f for it; it is loaded"
                " when that is free, and may fail",
                resident.model.id,
                size / GIB,
                room / GIB,
            )
        return min(size, max(room, 0.0))

    async def _go(self, resident: Resident, move: Move) -> None:
        """One move, to its end."""
        name, began = resident.model.id, time.monotonic()
        source = "memory" if resident.engine.sleepers else "disk"
        try:
            if move.place is Place.LOADED:
                await self._load(resident)
                resident.engine.residence.load_s = time.monotonic() - began
                self._metrics.loaded(name, resident.engine.residence.load_s, source)
            else:
                asleep = move.place is Place.ASLEEP
                if resident.member.place is Place.LOADED:
                    await self._measure(resident)
                log.info(
                    "model %s: %s", name, WORDS[move.why].format("put to sleep" if asleep else "unloaded")
                )
                async with resident.engine.changing:
                    sleeps = await resident.engine.unload(asleep=asleep)
                self._metrics.left(name, move.why)
                if asleep and not sleeps:
                    resident.group.failed(resident.member)
                    return
            resident.group.arrived(resident.member, time.monotonic())
        except Failure as failure:
            if isinstance(failure, ConfigurationError):
                resident.engine.fail(failure)
            if resident.engine.is_running:
                await self._give_up(resident, failure.message)
            else:
                resident.group.failed(resident.member)
        self._changed.set()

    async def _load(self, resident: Resident) -> None:
        """Raises ConfigurationError or EngineFailed."""
        engine = resident.engine
        while not engine.is_running:  # noqa: ASYNC110  # it is about to be
            await asyncio.sleep(LOOK_S)
        if not resident.is_verified:
            engine.report(Status(Phase.VERIFYING))
            await self._verify(resident.model)
            resident.is_verified = True
        engine.residence.failure = ""
        engine.load()
        await engine.loaded()
        engine.residence.is_refused = False
        await self._measure(resident)

    async def _measure(self, resident: Resident) -> None:
        """What it takes, where nobody has said so and it can be told."""
        if resident.model.settings.size_gib:
            return
        measured = await asyncio.to_thread(lambda: resident.engine.memory)
        if measured:
            resident.member.size = self._fitting(resident, measured)

    async def _give_up(self, resident: Resident, why: str) -> None:
        """It could not be loaded, or started again, and leaves its memory to others."""
        log.error(
            "model %s: %s; it is unloaded, and loaded when it is asked for again", resident.model.id, why
        )
        resident.engine.residence.fail(why)
        await resident.engine.unload()
        message = f"model {resident.model.id} could not be loaded: {why}"
        resident.engine.work.fail(ServiceUnavailable(message, retry_after_s=30))
        resident.group.failed(resident.member)
        self._changed.set()


WORDS = {
    Why.ASKED: "it is {}, as an operator asks",
    Why.IDLE: "it has had nothing to do, and is {}",
    Why.ROOM: "it is {}, because its memory is needed for another one",
}
