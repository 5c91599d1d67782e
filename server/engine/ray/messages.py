"""What is said between a front end, its agent, the keeper and the engines' actors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.config.model import ModelSettings
from server.engine.base import Phase, Status

NAMESPACE = "verbatim"  # Ray's, in which actors have names
KEEPER = "keeper"
ENGINE = "engine"  # and the number of its model, and its own
UNKNOWN = -1  # the version of what an actor has not told itself
MOST_FRONT_ENDS = 32  # each has a place at every engine


def engine_name(model: int, replica: int) -> str:
    return f"{ENGINE}-{model}-{replica}"


def numbers_of(name: str) -> tuple[int, int] | None:
    """The model's and the replica's; None: it is no engine's name."""
    kind, *numbers = name.split("-")
    if kind != ENGINE or len(numbers) != 2:
        return None
    return int(numbers[0]), int(numbers[1])


class EngineOrder(BaseModel):
    """What an engine's actor is made with. over_nodes: vLLM spreads it over nodes, itself by way of Ray."""

    model: ModelSettings
    context_size: int
    hang_timeout_s: float
    log_level: str
    log_format: str = "text"
    over_nodes: bool = False


class Told(BaseModel):
    """How far an engine is. version: of what its actor tells. life: which of the actor's engines it is."""

    version: int
    life: int
    phase: Phase
    done: int = 0
    total: int = 0
    detail: str = ""

    @property
    def status(self) -> Status:
        return Status(self.phase, self.done, self.total, self.detail)


class Use(BaseModel):
    """What a key's requests have used. requests, tokens: how much, and for how many seconds it still counts.
    running: at this moment."""

    requests: list[tuple[float, int]] = []
    tokens: list[tuple[float, int]] = []
    running: int = 0


class Load(BaseModel):
    """Of one model on one front end. wait_s: how long its requests wait for their first token. jobs: that it
    has, by the replica; -1: that have none yet. num_ready: replicas that it can send to."""

    wait_s: float = 0.0
    jobs: dict[int, int] = {}
    num_ready: int = 0


class Report(BaseModel):
    """What a front end tells the keeper, again and again. models: by their numbers. keys: by their names."""

    front_end: str
    models: dict[int, Load] = {}
    keys: dict[str, Use] = {}


class ReplicaView(BaseModel):
    """One replica of a model. needs: what its node must have free. leaves: it takes nothing new."""

    model: int
    replica: int
    needs: str = ""
    leaves: bool = False


class View(BaseModel):
    """The keeper's answer. ends: it ends, and another one begins. keys: what they have used on all the other
    front ends."""

    num_front_ends: int = 1
    replicas: list[ReplicaView] = []
    keys: dict[str, Use] = {}
    ends: bool = False


class AgentOrder(BaseModel):
    """What a front end's agent is told first. site: what all front ends have in common (Site), as JSON.
    is_first: no agent before it has joined, so that what fails now is for a person to mend."""

    address: str
    front_end: str
    site: str
    is_first: bool


class AgentAsk(BaseModel):
    """What it is told then, again and again. lost: a replica, by its model and number, that cannot be reached
    any more. leaves: the front end ends."""

    report: Report | None = None
    lost: tuple[int, int] | None = None
    leaves: bool = False


class AgentNews(BaseModel):
    """What an agent says. refused: why this front end cannot join. admission: the way to a replica, from the
    actor's hub. view: the keeper's last."""

    refused: str = ""
    view: View | None = None
    model: int = -1
    replica: int = -1
    told: Told | None = None
    admission: dict[str, Any] | None = None
