"""The messages between a front end, its agent, the keeper and the engines' actors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.config.model import ModelSettings
from server.engine.base import Phase, Status

NAMESPACE = "verbatim"  # the Ray namespace of the actors' names
KEEPER = "keeper"
ENGINE = "engine"  # an actor's name is this, the number of its model, and its own number
UNKNOWN = -1  # the version of a status that an actor has not reported itself
MOST_FRONT_ENDS = 32  # each has a place at every engine


def engine_name(model: int, replica: int) -> str:
    return f"{ENGINE}-{model}-{replica}"


def numbers_of(name: str) -> tuple[int, int] | None:
    """(number of the model, number of the replica); None: it is not the name of an engine."""
    kind, *numbers = name.split("-")
    if kind != ENGINE or len(numbers) != 2:
        return None
    return int(numbers[0]), int(numbers[1])


class EngineOrder(BaseModel):
    """The argument of an engine's actor. over_nodes: vLLM spreads the engine over nodes, using Ray itself."""

    model: ModelSettings
    context_size: int
    hang_timeout_s: float
    log_level: str
    log_format: str = "text"
    over_nodes: bool = False


class Told(BaseModel):
    """An engine's status. version: of the actor's status. life: number of the actor's engine."""

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
    """Usage of a key. requests, tokens: (amount, seconds for which it still counts). running: requests at
    this moment."""

    requests: list[tuple[float, int]] = []
    tokens: list[tuple[float, int]] = []
    running: int = 0


class Load(BaseModel):
    """The load of one model on one front end. wait_s: how long its requests wait for their first token. jobs:
    by replica; -1: without a replica. num_ready: replicas that it can send to."""

    wait_s: float = 0.0
    jobs: dict[int, int] = {}
    num_ready: int = 0


class Report(BaseModel):
    """A front end's regular report to the keeper. models: by their numbers. keys: by their names."""

    front_end: str
    models: dict[int, Load] = {}
    keys: dict[str, Use] = {}


class ReplicaView(BaseModel):
    """One replica of a model. needs: what its node must have free. leaves: it takes no new jobs."""

    model: int
    replica: int
    needs: str = ""
    leaves: bool = False


class View(BaseModel):
    """The keeper's answer. ends: this keeper ends, and another one starts. keys: their usage on all other
    front ends."""

    num_front_ends: int = 1
    replicas: list[ReplicaView] = []
    keys: dict[str, Use] = {}
    ends: bool = False


class AgentOrder(BaseModel):
    """The first line to a front end's agent. site: what all front ends must have in common (Site), as JSON.
    is_first: no agent has joined before, so a person has to mend what fails now."""

    address: str
    front_end: str
    site: str
    is_first: bool


class AgentAsk(BaseModel):
    """Further lines to the agent. lost: a replica, by its model and number, that can no longer be reached.
    leaves: the front end ends."""

    report: Report | None = None
    lost: tuple[int, int] | None = None
    leaves: bool = False


class AgentNews(BaseModel):
    """What an agent reports. refused: why this front end cannot join. admission: the way to a replica, from
    the actor's hub. view: the keeper's last."""

    refused: str = ""
    view: View | None = None
    model: int = -1
    replica: int = -1
    told: Told | None = None
    admission: dict[str, Any] | None = None
