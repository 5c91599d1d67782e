"""Which models of a group are in memory: who waits in line for it, and who goes to make room.

It decides and does nothing: process/groups.py does what it says, and tells it what has come of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Place(StrEnum):
    """Where a model is. ASLEEP: its process lives, with its weights elsewhere than in the group's memory."""

    UNLOADED = "unloaded"
    ASLEEP = "asleep"
    LOADED = "loaded"


@dataclass(slots=True, eq=False)
class Member:
    """One model of a group. Sizes in bytes, times in seconds of one clock.

    size, asleep_size: of the group's memory, when it is loaded, and asleep. sleeps: it makes room so. stays:
    it does not make room for others. unload_after_s: without anything to do; 0: never.

    place: where it is; going: where it is on its way to. running: jobs that its engine works on; waiting:
    others that it has. used_at: when it last had any. loaded_at: since when it is. asked: where an operator
    wants it, until it is there. is_leaving: it gets no more jobs, so that it can go.
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
        """It is loaded, and not on its way anywhere."""
        return self.place is Place.LOADED and self.going is None

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.waiting)

    @property
    def wants_in(self) -> bool:
        """It is not loaded, and there is a job for it, or an operator's word."""
        if self.place is Place.LOADED or self.going is not None:
            return False
        return self.asked is Place.LOADED or (self.asked is None and self.waiting > 0)

    def takes(self, place: Place) -> float:
        """Of the group's memory, there."""
        return {Place.UNLOADED: 0.0, Place.ASLEEP: self.asleep_size, Place.LOADED: self.size}[place]

    @property
    def held(self) -> float:
        """Of the group's memory, now; on its way, the more of the two."""
        return max(self.takes(self.place), self.takes(self.going or self.place))


class Why(StrEnum):
    """A model goes where it goes."""

    ASKED = "asked"  # by a request, to be loaded, or by an operator
    IDLE = "idle"
    ROOM = "room"


class Move(NamedTuple):
    member: Member
    place: Place
    why: Why


Steps = Iterator[tuple[Member, Place]]


class Group:
    """Models that share memory, so many bytes; math.inf: there is room for all. min_loaded_s: how long one
    that is loaded stays at least, so that two that are asked for in turns do not chase each other.

    The line is first come, first served, and one at a time is loaded. Room is made by the least recently used
    that have nothing to do; where those are not enough, by those that have been loaded longest, which get no
    new jobs, and go when their last one has ended. So no job is lost, and each one's turn comes.
    """

    def __init__(self, memory: float = math.inf, min_loaded_s: float = 0.0) -> None:
        self.memory = memory
        self.min_loaded_s = min_loaded_s
        self.members: dict[str, Member] = {}
        self._line: dict[str, Member] = {}  # the first one first

    @property
    def free(self) -> float:
        return self.memory - sum(member.held for member in self.members.values())

    def ask(self, member: Member) -> None:
        """It has a job, or an operator's word, and gets in line if it is not loaded."""
        if member.wants_in:
            self._line.setdefault(member.name, member)

    def order(self, member: Member, place: Place) -> None:
        """An operator's word."""
        is_there = member.place is place and member.going is None
        member.asked = None if is_there else place
        self.ask(member)

    def num_before(self, member: Member) -> int | None:
        """In the line; None: it does not wait there."""
        return [*self._line].index(member.name) if member.name in self._line else None

    def remove(self, member: Member) -> None:
        """It is no more of this group."""
        self._line.pop(member.name, None)
        self.members.pop(member.name, None)

    def arrived(self, member: Member, now: float) -> None:
        """It is where it was going."""
        assert member.going is not None, "on its way"
        member.place, member.going = member.going, None
        if member.asked is member.place:
            member.asked = None
        if member.place is Place.LOADED:
            member.loaded_at = now
        else:
            member.is_leaving = False

    def failed(self, member: Member) -> None:
        """It could not be loaded, and is not in memory."""
        member.place, member.going, member.asked = Place.UNLOADED, None, None

    def look(self, now: float) -> list[Move]:
        """Who is to go where now; whoever is is on its way."""
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
        elif self.free < 0:  # there is less than there was, or one takes more than was known
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
        """Who is to go, whether or not there is need of room."""
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
        """It has had nothing to do for long enough."""
        after_s = member.unload_after_s
        if not after_s or not member.is_settled or not member.is_idle:
            return False
        return self._is_ripe(member, now) and now - max(member.used_at, member.loaded_at) >= after_s

    def _room(self, others: list[Member], lacks: float, now: float) -> dict[Member, Move]:
        """Who of these makes room, and where each goes; nobody where all of them together are
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
        """What can be done for room, in the order in which it is."""
        settled = [one for one in others if one.is_settled and not one.stays and self._is_ripe(one, now)]
        idle = sorted((one for one in settled if one.is_idle), key=lambda one: one.used_at)
        asleep = [one for one in others if one.place is Place.ASLEEP and one.going is None]
        yield from ((one, one.rest) for one in idle)
        yield from ((one, Place.UNLOADED) for one in sorted(asleep, key=lambda one: one.used_at))
        yield from ((one, Place.UNLOADED) for one in idle if one.sleeps)
        busy = sorted((one for one in settled if not one.is_idle), key=lambda one: one.loaded_at)
        yield from ((one, one.rest) for one in busy)
        yield from ((one, Place.UNLOADED) for one in busy if one.sleeps)
