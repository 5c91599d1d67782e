"""Decides which models of a group are in memory: who waits for it, and who makes room.

It only decides: process/groups.py carries out its moves and reports their results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Place(StrEnum):
    """Where a model is. ASLEEP: its process lives, with its weights outside the group's memory."""

    UNLOADED = "unloaded"
    ASLEEP = "asleep"
    LOADED = "loaded"


@dataclass(slots=True, eq=False)
class Member:
    """One model of a group. Sizes in bytes, times in seconds of one clock.

    size, asleep_size: its part of the group's memory when loaded, and when asleep. sleeps: it goes to sleep
    to make room. stays: it never makes room. unload_after_s: idle time after which it is unloaded; 0: never.

    place: where it is; going: where it is moving to. running: jobs on its engine; waiting: its other jobs.
    used_at: when it last had jobs. loaded_at: since when it is loaded. asked: where an operator wants it,
    until it is there. is_leaving: it gets no more jobs, so that it can leave.
    """

    name: str
    size: float = 0.0
    asleep_size: float = 0.0
    sleeps: bool = False
    stays: bool = False
    unload_after_s: float = 0.0
    place: Place = Place.UNLOADED
    going: Place | None = None
    running: int = 0
    waiting: int = 0
    used_at: float = -math.inf
    loaded_at: float = -math.inf
    asked: Place | None = None
    is_leaving: bool = False

    @property
    def rest(self) -> Place:
        """Where it goes to make room."""
        return Place.ASLEEP if self.sleeps else Place.UNLOADED

    @property
    def is_settled(self) -> bool:
        """It is loaded, and not moving."""
        return self.place is Place.LOADED and self.going is None

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.waiting)

    @property
    def wants_in(self) -> bool:
        """It is not loaded, and a job or an operator wants it to be."""
        if self.place is Place.LOADED or self.going is not None:
            return False
        return self.asked is Place.LOADED or (self.asked is None and self.waiting > 0)

    def takes(self, place: Place) -> float:
        """Its part of the group's memory at that place."""
        return {Place.UNLOADED: 0.0, Place.ASLEEP: self.asleep_size, Place.LOADED: self.size}[place]

    @property
    def held(self) -> float:
        """Its part of the group's memory now; while it moves, the larger of the two."""
        return max(self.takes(self.place), self.takes(self.going or self.place))


class Why(StrEnum):
    """Why a model moves."""

    ASKED = "asked"  # by a request that needs it, or by an operator
    IDLE = "idle"
    ROOM = "room"


class Move(NamedTuple):
    member: Member
    place: Place
    why: Why


Steps = Iterator[tuple[Member, Place]]


class Group:
    """Models that share this many bytes of memory; math.inf: there is room for all. min_loaded_s: how long a
    loaded model stays at least, so that two models in alternating use do not evict each other all the time.

    Models are loaded one at a time, first come, first served. Idle models make room first, the least recently
    used one first. If that is not enough, those that have been loaded longest get no new jobs, and leave when
    their last job has ended. So no job is lost, and each model gets its turn.
    """

    def __init__(self, memory: float = math.inf, min_loaded_s: float = 0.0) -> None:
        self.memory = memory
        self.min_loaded_s = min_loaded_s
        self.members: dict[str, Member] = {}
        self._line: dict[str, Member] = {}  # in order of arrival

    @property
    def free(self) -> float:
        return self.memory - sum(member.held for member in self.members.values())

    def ask(self, member: Member) -> None:
        """The model has a job, or an operator wants it; it gets in line if it is not loaded."""
        if member.wants_in:
            self._line.setdefault(member.name, member)

    def order(self, member: Member, place: Place) -> None:
        """An operator wants the model at this place."""
        is_there = member.place is place and member.going is None
        member.asked = None if is_there else place
        self.ask(member)

    def num_before(self, member: Member) -> int | None:
        """Models before it in the line; None: it does not wait."""
        return [*self._line].index(member.name) if member.name in self._line else None

    def remove(self, member: Member) -> None:
        """Remove the model from this group."""
        self._line.pop(member.name, None)
        self.members.pop(member.name, None)

    def arrived(self, member: Member, now: float) -> None:
        """The model has arrived where it was going."""
        assert member.going is not None, "on its way"
        member.place, member.going = member.going, None
        is_out = member.asked is Place.ASLEEP and member.place is Place.UNLOADED  # no memory is left to free
        if is_out or member.asked is member.place:
            member.asked = None
        if member.place is Place.LOADED:
            member.loaded_at = now
        else:
            member.is_leaving = False

    def failed(self, member: Member) -> None:
        """The model could not be loaded, and is not in memory."""
        member.place, member.going, member.asked = Place.UNLOADED, None, None

    def look(self, now: float) -> list[Move]:
        """The moves to begin now; the models of these moves count as moving."""
        for member in self.members.values():
            self.ask(member)
        self._line = {name: member for name, member in self._line.items() if member.wants_in}
        leaving = self._leaving(now)
        moves: list[Move] = []
        head = next(iter(self._line.values()), None)
        if head is not None and all(one.going is not Place.LOADED for one in self.members.values()):
            lacks = head.takes(Place.LOADED) - head.held - self.free
            if lacks <= 0:
                del self._line[head.name]
                moves.append(Move(head, Place.LOADED, Why.ASKED))
            else:
                others = [one for one in self.members.values() if one is not head]
                leaving |= self._room(others, lacks, now)
        elif self.free < 0:  # the group has less memory than before, or a model takes more than was known
            leaving |= self._room([one for one in self.members.values() if one.is_idle], -self.free, now)
        for member in self.members.values():
            is_empty = not member.running if member.is_leaving and not member.stays else member.is_idle
            member.is_leaving = member in leaving and member.place is Place.LOADED
            if member in leaving and (is_empty or member.place is Place.ASLEEP):
                moves.append(leaving[member])
        for member, place, _ in moves:
            member.going = place
        return moves

    def _leaving(self, now: float) -> dict[Member, Move]:
        """The models that leave whether or not room is needed."""
        leaving: dict[Member, Move] = {}
        for member in self.members.values():
            if member.going is not None:
                continue
            if member.asked is not None and member.asked is not Place.LOADED:
                leaving[member] = Move(member, member.asked, Why.ASKED)
            elif self._is_over(member, now):
                leaving[member] = Move(member, member.rest, Why.IDLE)
        return leaving

    def _is_ripe(self, member: Member, now: float) -> bool:
        return now - member.loaded_at >= self.min_loaded_s

    def _is_over(self, member: Member, now: float) -> bool:
        """It has been idle long enough."""
        after_s = member.unload_after_s
        if not after_s or not member.is_settled or not member.is_idle:
            return False
        return self._is_ripe(member, now) and now - max(member.used_at, member.loaded_at) >= after_s

    def _room(self, others: list[Member], lacks: float, now: float) -> dict[Member, Move]:
        """Which of these models make room, and where each goes; empty if all of them together are
        not enough yet."""
        leaving: dict[Member, Move] = {}
        lacks -= sum(one.held - one.takes(one.going) for one in others if one.going is not None)
        for member, place in self._steps(others, now):
            if lacks <= 0:
                return leaving
            at = leaving[member].place if member in leaving else member.place
            lacks -= member.takes(at) - member.takes(place)
            leaving[member] = Move(member, place, Why.ROOM)
        return leaving if lacks <= 0 else {}

    def _steps(self, others: list[Member], now: float) -> Steps:
        """The possible ways to make room, in the order in which they are used."""
        settled = [one for one in others if one.is_settled and not one.stays and self._is_ripe(one, now)]
        idle = sorted((one for one in settled if one.is_idle), key=lambda one: one.used_at)
        asleep = [one for one in others if one.place is Place.ASLEEP and one.going is None]
        yield from ((one, one.rest) for one in idle)
        yield from ((one, Place.UNLOADED) for one in sorted(asleep, key=lambda one: one.used_at))
        yield from ((one, Place.UNLOADED) for one in idle if one.sleeps)
        busy = sorted((one for one in settled if not one.is_idle), key=lambda one: one.loaded_at)
        yield from ((one, one.rest) for one in busy)
        yield from ((one, Place.UNLOADED) for one in busy if one.sleeps)
