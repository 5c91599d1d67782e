"""Models that share memory: examples, and random histories with what has to hold in each."""

from __future__ import annotations

import math
import random

import pytest

from server.engine.group import Group, Member, Place, Why

MIN_LOADED_S = 5.0
STEP_S, STEPS = 0.5, 800
LONGEST_JOB_S, LONGEST_MOVE_S = 6.0, 4.0


def group(memory: float, *members: Member, min_loaded_s: float = MIN_LOADED_S) -> Group:
    made = Group(memory, min_loaded_s)
    made.members = {member.name: member for member in members}
    return made


def loaded(name: str, size: float, *, used_at: float = 0.0, running: int = 0, **more: object) -> Member:
    return Member(name, size, place=Place.LOADED, loaded_at=0.0, used_at=used_at, running=running, **more)  # type: ignore[arg-type]


def moves(there: Group, now: float) -> dict[str, Place]:
    return {move.member.name: move.place for move in there.look(now)}


def test_as_many_run_as_fit() -> None:
    """A model that is asked for is loaded beside those that are, where there is room."""
    there = group(10, loaded("a", 4), Member("b", 6, waiting=1))
    assert moves(there, 0.0) == {"b": Place.LOADED}


def test_the_least_recently_used_goes_first() -> None:
    """Room is made by the one that was used longest ago, and by no more than are needed."""
    there = group(10, loaded("a", 4, used_at=3.0), loaded("b", 4, used_at=2.0), Member("c", 5, waiting=1))
    assert moves(there, 60.0) == {"b": Place.UNLOADED}
    there.arrived(there.members["b"], 61.0)
    assert moves(there, 61.0) == {"c": Place.LOADED}


def test_what_is_on_its_way_out_counts() -> None:
    """Nobody makes room beside one that does already, where that is enough."""
    there = group(10, loaded("a", 5), loaded("b", 5, used_at=1.0), Member("c", 5, waiting=1))
    assert moves(there, 60.0) == {"a": Place.UNLOADED}
    assert moves(there, 61.0) == {}


def test_one_that_works_is_left_alone() -> None:
    """A model with jobs stays while another one can make room instead, however lately that was used."""
    there = group(
        10, loaded("a", 5, used_at=1.0, running=1), loaded("b", 5, used_at=2.0), Member("c", 5, waiting=1)
    )
    assert moves(there, 60.0) == {"b": Place.UNLOADED}


def test_one_that_never_rests_goes_too() -> None:
    """Where all have jobs, the one that is loaded longest gets no more, and goes when its last has ended."""
    busy = loaded("a", 10, running=1)
    there = group(10, busy, Member("b", 10, waiting=1))
    assert moves(there, 60.0) == {}
    assert busy.is_leaving
    busy.running, busy.waiting = 0, 3  # what has come since waits for its next turn
    assert moves(there, 61.0) == {"a": Place.UNLOADED}
    there.arrived(busy, 62.0)
    assert moves(there, 62.0) == {"b": Place.LOADED}
    assert there.num_before(busy) == 0


def test_nobody_waits_for_one_who_has_left() -> None:
    """A model that was to go stays when what waited for its memory is gone."""
    busy, other = loaded("a", 10, running=1), Member("b", 10, waiting=1)
    there = group(10, busy, other)
    there.look(60.0)
    other.waiting = 0
    assert moves(there, 61.0) == {}
    assert not busy.is_leaving


def test_a_model_stays_for_a_while() -> None:
    """One that has just been loaded is not sent away before min_loaded_s."""
    there = group(10, loaded("a", 10), Member("b", 10, waiting=1))
    assert moves(there, MIN_LOADED_S - 0.1) == {}
    assert moves(there, MIN_LOADED_S) == {"a": Place.UNLOADED}


def test_one_is_loaded_at_a_time() -> None:
    """The next in line waits until the first is loaded: two that start misjudge what is free."""
    there = group(10, Member("a", 3, waiting=1), Member("b", 3, waiting=1))
    assert moves(there, 0.0) == {"a": Place.LOADED}
    assert moves(there, 1.0) == {}
    there.arrived(there.members["a"], 2.0)
    assert moves(there, 2.0) == {"b": Place.LOADED}


def test_who_has_nothing_to_do_is_unloaded() -> None:
    """After unload_after_s without a job, whether or not anybody wants the memory."""
    there = group(math.inf, loaded("a", 4, used_at=50.0, unload_after_s=30.0))
    assert moves(there, 79.0) == {}
    assert moves(there, 80.0) == {"a": Place.UNLOADED}


def test_one_that_stays_makes_no_room() -> None:
    """A model that is loaded at the start is never sent away for another."""
    there = group(10, loaded("a", 4, stays=True), loaded("b", 4), Member("c", 5, waiting=1))
    assert moves(there, 60.0) == {"b": Place.UNLOADED}
    there = group(10, loaded("a", 8, stays=True), Member("c", 5, waiting=1))
    assert moves(there, 60.0) == {}


def test_sleepers_hold_little() -> None:
    """Who can sleep makes room so; those that sleep already end where that is not enough."""
    there = group(
        10, loaded("a", 6, asleep_size=1, sleeps=True), Member("b", 6, asleep_size=1, sleeps=True, waiting=1)
    )
    assert moves(there, 60.0) == {"a": Place.ASLEEP}
    there.arrived(there.members["a"], 61.0)
    assert moves(there, 61.0) == {"b": Place.LOADED}
    there.arrived(there.members["b"], 62.0)
    there.members["b"].waiting = 0
    there.members["c"] = Member("c", 10, waiting=1)
    assert moves(there, 90.0) == {"a": Place.UNLOADED, "b": Place.UNLOADED}


def test_an_operator_is_obeyed() -> None:
    """What an operator unloads goes at once when it has nothing to do, and what one loads waits in line."""
    there = group(10, loaded("a", 10), Member("b", 10))
    there.order(there.members["b"], Place.LOADED)
    assert moves(there, 1.0) == {}
    there.order(there.members["a"], Place.UNLOADED)
    assert moves(there, 1.0) == {"a": Place.UNLOADED}
    there.arrived(there.members["a"], 2.0)
    assert moves(there, 2.0) == {"b": Place.LOADED}
    there.arrived(there.members["b"], 3.0)
    assert there.members["b"].asked is None


def test_one_that_is_unloaded_already_need_not_sleep() -> None:
    """An operator who wants a model asleep while it is being unloaded does not keep its next job waiting."""
    member = loaded("a", 10, sleeps=True, asleep_size=1)
    there = group(10, member)
    there.order(member, Place.UNLOADED)
    assert moves(there, 1.0) == {"a": Place.UNLOADED}
    there.order(member, Place.ASLEEP)
    there.arrived(member, 2.0)
    member.waiting = 1
    assert moves(there, 2.0) == {"a": Place.LOADED}


class History:
    """Members of a group, jobs for them, and a clock of its own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.memory = float(self.random.randint(10, 20))
        self.group = Group(self.memory, MIN_LOADED_S)
        for k in range(self.random.randint(2, 6)):
            sleeps = self.random.random() < 0.3
            member = Member(
                f"m{k}",
                size=self.random.randint(3, 10),
                asleep_size=1.0 if sleeps else 0.0,
                sleeps=sleeps,
                unload_after_s=self.random.choice((0.0, 0.0, 20.0)),
            )
            self.group.members[member.name] = member
        self.waiting: dict[str, list[tuple[float, float]]] = {name: [] for name in self.group.members}
        self.running: dict[str, list[float]] = {name: [] for name in self.group.members}
        self.arrivals: dict[str, tuple[float, Place]] = {}
        self.longest_wait_s = 0.0
        self.rate = self.random.choice((0.02, 0.1, 0.5))

    @property
    def patience_s(self) -> float:
        """For a job, from its coming to its place on an engine."""
        turn_s = MIN_LOADED_S + LONGEST_JOB_S + 2 * LONGEST_MOVE_S + 5 * STEP_S
        return turn_s * (len(self.group.members) + 1)

    def step(self) -> None:
        self.now += STEP_S
        for name, member in self.group.members.items():
            self._work(name, member)
        before = {name: (one.place, one.running, one.waiting) for name, one in self.group.members.items()}
        idle = {one.name: one.used_at for one in self.group.members.values() if self._may_go(one)}
        for member, place, why in self.group.look(self.now):
            if why is Why.ROOM:
                self._check_victim(member, idle)
            self._check(member, before)
            self.arrivals[member.name] = self.now + self.random.uniform(0, LONGEST_MOVE_S), place
        assert sum(member.held for member in self.group.members.values()) <= self.memory

    def _work(self, name: str, member: Member) -> None:
        waiting, running = self.waiting[name], self.running[name]
        if name in self.arrivals and self.now >= self.arrivals[name][0]:
            del self.arrivals[name]
            self.group.arrived(member, self.now)
        if self.random.random() < self.rate:
            waiting.append((self.now, self.random.uniform(0, LONGEST_JOB_S)))
        running[:] = [end for end in running if end > self.now]
        if member.is_settled and not member.is_leaving:
            for came_at, lasts_s in waiting:
                self.longest_wait_s = max(self.longest_wait_s, self.now - came_at)
                running.append(self.now + lasts_s)
            waiting.clear()
        member.running, member.waiting = len(running), len(waiting)
        if not member.is_idle:
            member.used_at = self.now

    def _may_go(self, member: Member) -> bool:
        return member.is_settled and member.is_idle and self.now - member.loaded_at >= MIN_LOADED_S

    def _check(self, member: Member, before: dict[str, tuple[Place, int, int]]) -> None:
        was, running, waiting = before[member.name]
        if was is Place.LOADED:
            assert running == 0, "one with a job on its engine is sent away"
            assert waiting == 0 or self.now - member.loaded_at >= MIN_LOADED_S
            assert self.now - member.loaded_at >= MIN_LOADED_S, "sent away too early"

    def _check_victim(self, member: Member, idle: dict[str, float]) -> None:
        if member.name in idle:
            older = [name for name, used_at in idle.items() if used_at < member.used_at]
            assert all(self.group.members[name].going is not None for name in older), "not the oldest"


@pytest.mark.parametrize("seed", range(60))
def test_at_random(seed: int) -> None:
    """Memory is never exceeded, nobody with a job is sent away, or too early, or before one that was used
    longer ago, and nobody waits for ever."""
    history = History(seed)
    for _ in range(STEPS):
        history.step()
        oldest = min((jobs[0][0] for jobs in history.waiting.values() if jobs), default=history.now)
        assert history.now - oldest <= history.patience_s
    assert history.longest_wait_s > 0
