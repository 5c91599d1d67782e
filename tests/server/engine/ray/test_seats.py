from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.engine.base import Phase
from server.engine.ray.messages import UNKNOWN, Told
from server.engine.ray.seats import Seat

ADMISSION: dict[str, Any] = {
    "slot": 0,
    "address": "tcp://127.0.0.1:1",
    "server_key": "s",
    "public_key": "p",
    "secret_key": "q",
}


def told(version: int, phase: Phase = Phase.READY, life: int = 0) -> Told:
    return Told(version=version, life=life, phase=phase)


@pytest.fixture
def seat() -> Seat:
    """Of an engine that is ready."""
    seat = Seat(lambda: None)
    seat.admit(ADMISSION)
    seat.hear(told(1))
    return seat


def test_the_same_way_again_changes_nothing(seat: Seat) -> None:
    """An agent that has started anew tells what the one before it has told: the engine goes on."""
    life = seat.life
    seat.admit(ADMISSION)
    seat.hear(told(5))
    assert seat.life == life
    assert seat.status.ready


def test_another_actor_has_another_engine(seat: Seat) -> None:
    """What was reached is lost, and what its actor tells of itself counts anew."""
    life = seat.life
    seat.admit(ADMISSION | {"address": "tcp://127.0.0.2:1"})
    assert (seat.life, seat.status.phase) == (life + 1, Phase.RESTARTING)
    seat.hear(told(1))
    assert (seat.life, seat.status.ready) == (life + 1, True)


def test_a_restart_that_nobody_has_seen_is_one(seat: Seat) -> None:
    """The engine is ready as before, but another one: its actor counts them."""
    life = seat.life
    seat.hear(told(9, life=1))
    assert (seat.life, seat.status.ready) == (life + 1, True)


def test_what_ray_cannot_reach_may_be_in_use(seat: Seat) -> None:
    """The agent does not hear of an engine, which answers this front end all the same: nothing is lost."""
    seat.is_reached = True
    seat.hear(told(UNKNOWN, Phase.WAITING, UNKNOWN))
    assert seat.status.ready
    seat.lose()
    seat.hear(told(UNKNOWN, Phase.WAITING, UNKNOWN))
    assert not seat.status.ready


def test_a_loss_is_told_to_the_agent() -> None:
    """Which asks for another way, in case that this one was taken back."""
    lost: list[int] = []

    async def lose() -> None:
        seat = Seat(lambda: lost.append(1))
        seat.lose()

    asyncio.run(lose())
    assert lost == [1]


def test_the_node(seat: Seat) -> None:
    """Where its engine is, as the way to it says; of one that is on no node, none."""
    assert seat.node == "127.0.0.1"
    seat.admit(ADMISSION | {"address": "tcp://[fd00::7]:1"})
    assert seat.node == "fd00::7"
    seat.hear(told(UNKNOWN, Phase.WAITING))
    assert seat.node == ""
    assert Seat(lambda: None).node == ""
