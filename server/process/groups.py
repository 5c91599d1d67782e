"""Loads models on demand, and unloads them when their memory is needed or they are idle."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from server.config.settings import Settings
from server.engine.base import Phase, Status
from server.engine.group import Group, Member, Move, Place, Why
from server.engine.replicas import Replicas
from server.engine.served import ServedModel
from server.errors import ConfigurationError, EngineFailed, Failure, InvalidRequest, ServiceUnavailable
from server.http.metrics import Metrics
from server.process.shares import Resident, Shares
from server.ticks import next_in_s

log = logging.getLogger(__name__)

LOOK_S = 0.25  # seconds between two looks, if nothing happens
QUIET_S = 1.0  # if no model moves by itself


class Groups:
    """The memory groups. A model that shares memory with no other has a group of its own.

    verify: compares a model's checksums; raises ConfigurationError.
    """

    def __init__(self, metrics: Metrics, verify: Callable[[ServedModel], Awaitable[None]]) -> None:
        self._metrics = metrics.loads
        self._verify = verify
        self._residents: dict[Replicas, Resident] = {}
        self._shares = Shares(self._residents.values())
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def adopt(self, settings: Settings, served: Iterable[ServedModel] = ()) -> None:
        """Use these groups from now on. served: the models that run, some with changed settings. Other models
        that still run were removed, and keep their share of the group's memory until their end."""
        self._shares.adopt(settings, {model.engine: model for model in served})
        self._changed.set()

    def add(self, model: ServedModel) -> None:
        """The model runs from now on."""
        member = Member(f"{model.id} {next(self._numbers)}")
        resident = self._residents[model.engine] = Resident(model, member, Group())
        resident.group.members[member.name] = member
        self._shares.settle(resident)
        self._shares.fit()
        residence = model.engine.residence
        residence.on_wanted = self._changed.set
        if model.settings.load == "at_start" and resident.group.memory == math.inf:
            member.place, resident.is_verified = Place.LOADED, True  # its engines are starting already
            return
        residence.is_out = True
        model.engine.work.hold()
        if model.settings.load == "at_start":
            resident.group.order(member, Place.LOADED)

    async def room(self, model: ServedModel, within_s: float) -> None:
        """Return when the models of its group fit into the memory again, after a reload enlarged this one, or
        when the time is up."""
        end = time.monotonic() + within_s
        group = self._residents[model.engine].group
        while group.free < 0 and time.monotonic() < end:  # noqa: ASYNC110  # other models end their requests
            await asyncio.sleep(LOOK_S)

    @contextlib.asynccontextmanager
    async def removing(self, model: ServedModel) -> AsyncIterator[None]:
        """Within this context the model ends; afterwards its memory is free."""
        resident = self._residents.pop(model.engine)
        if resident.move is not None:
            resident.move.cancel()
            await asyncio.gather(resident.move, return_exceptions=True)
        resident.member.going = Place.UNLOADED
        try:
            yield
        finally:
            resident.group.remove(resident.member)
            self._shares.fit()
            self._changed.set()

    def order(self, model: ServedModel, place: Place) -> None:
        """Move the model as an operator orders. Raises InvalidRequest if that is impossible,
        ServiceUnavailable if it is impossible for now."""
        resident, residence = self._residents.get(model.engine), model.engine.residence
        if resident is None:
            raise ServiceUnavailable(
                f"a reload replaces model {model.id}, and waits for the requests of the old one to end",
                retry_after_s=10,
            )
        if model.engine.status.phase is Phase.FAILED and not model.engine.is_running:
            raise InvalidRequest(
                f"model {model.id} cannot be loaded: {model.engine.status.detail} Correct this, and reload"
                " the configuration",
                "state",
            )
        if place is Place.ASLEEP:
            if not resident.member.sleeps:
                raise InvalidRequest(
                    'state (current value: "asleep") is only for models with a sleep_level: model'
                    f' {model.id} has none; use "unloaded"',
                    "state",
                )
            if resident.member.place is Place.UNLOADED:
                raise InvalidRequest(f"model {model.id} is not loaded, so it cannot be put to sleep", "state")
        residence.failure = ""
        residence.is_refused = place is not Place.LOADED and model.settings.load == "at_start"
        resident.group.order(resident.member, place)
        self._changed.set()

    async def run(self) -> None:
        """Load and unload until cancelled."""
        try:
            while True:
                self._look()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(next_in_s(LOOK_S if self._may_move() else QUIET_S)):
                        await self._changed.wait()
        finally:
            moves = [one.move for one in self._residents.values() if one.move is not None]
            for move in moves:
                move.cancel()
            await asyncio.gather(*moves, return_exceptions=True)

    def _may_move(self) -> bool:
        """Whether a model moves, or may do so when time passes or a job ends."""
        return any(
            not one.member.is_settled or one.member.unload_after_s or one.group.memory < math.inf
            for one in self._residents.values()
        )

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
        """Note whether the model has jobs."""
        engine, member = resident.engine, resident.member
        work = engine.work
        member.running = sum(work.num_placed(number) for number in engine.supervisors)
        member.waiting = len(work) - member.running
        if work.num_submitted != resident.num_submitted or not member.is_idle:
            member.used_at = engine.residence.used_at = now
            resident.num_submitted = work.num_submitted
        if member.place is Place.ASLEEP and member.going is None and not engine.sleepers:
            resident.group.failed(member)  # its process has ended, or had other settings
        if member.is_settled and engine.is_given_up:
            if not engine.is_running:  # it failed for good, and no request loads it again
                resident.group.failed(member)
                return
            member.going = Place.UNLOADED
            resident.move = asyncio.create_task(self._give_up(resident, engine.residence.failure))

    def _tell(self, resident: Resident) -> None:
        """Update what clients and jobs are told about the model."""
        engine, member = resident.engine, resident.member
        engine.residence.num_before = resident.group.num_before(member)
        engine.residence.size = int(member.size)
        if member.is_leaving and not member.stays:
            engine.work.hold()
        elif member.is_settled:
            engine.work.go_on()

    async def _go(self, resident: Resident, move: Move) -> None:
        """Carry out one move."""
        name, began = resident.model.id, time.monotonic()
        source = "memory" if resident.engine.sleepers else "disk"
        try:
            if move.place is Place.LOADED:
                await self._load(resident)
                if resident.engine.status.ready:
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
        """Load the model. It also returns if loading failed but continues in memory of its own. Raises
        ConfigurationError or EngineFailed."""
        engine = resident.engine
        while not engine.is_running:  # it is about to run, or has failed for good
            if engine.status.phase is Phase.FAILED:
                raise EngineFailed(engine.status.detail)
            await asyncio.sleep(LOOK_S)
        if not resident.is_verified:
            engine.report(Status(Phase.VERIFYING))
            await self._verify(resident.model)
            resident.is_verified = True
        engine.residence.failure = ""
        engine.load()
        await engine.loaded()
        engine.work.go_on()
        engine.residence.is_refused = False
        await self._measure(resident)

    async def _measure(self, resident: Resident) -> None:
        """Measure the memory that it takes, if it is not configured and can be measured."""
        if resident.model.settings.size_gib:
            return
        measured = await asyncio.to_thread(lambda: resident.engine.memory)
        if measured:
            resident.size = measured
            self._shares.fit()

    async def _give_up(self, resident: Resident, why: str) -> None:
        """Loading or restarting failed: leave the memory to others."""
        log.error(
            "model %s: %s; it is unloaded, and loaded again at the next request", resident.model.id, why
        )
        resident.engine.residence.fail(why)
        self._metrics.failed(resident.model.id)
        await resident.engine.unload()
        message = f"model {resident.model.id} could not be loaded: {why}"
        resident.engine.work.fail(ServiceUnavailable(message, retry_after_s=30))
        resident.group.failed(resident.member)
        self._changed.set()


WORDS = {
    Why.ASKED: "it is {}, because an operator asked for it",
    Why.IDLE: "it was idle, and is {}",
    Why.ROOM: "it is {}, because another model needs its memory",
}
