"""What the server asks of an engine.

A job is one candidate. Its outputs are pushed to a sink, on the event loop's thread, as they come; the last
one has a finish_reason, or is a RequestFailure in its place. Nothing is pushed after that, nor after abort,
nor when the engine has ended: what becomes of its jobs then is not its to decide (work.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import msgspec

from server.contract.params import GenerationParams
from server.errors import RequestFailure, ServiceUnavailable
from server.observe.trail import Trail
from server.weights.adapters import Adapter

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class TopLogprobs:
    """Positions, one after the other in flat lists. Natural logarithms of the raw model distribution, before
    any transform.

    width: entries of a position, 1 + k: the sampled token first, then the k most likely ones, best first, so
    that the sampled token stands twice where it is among the k. token_ids, logprobs: [num_positions × width].
    """

    width: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def sampled(self) -> list[float]:
        """Of each position's sampled token."""
        return self.logprobs[:: self.width]

    def extend(self, later: TopLogprobs) -> None:
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs


class EngineOutput(msgspec.Struct, gc=False):  # made for each token, in a third of a dataclass's time
    """What an engine has to say about a candidate since its last output.

    logprobs: a position for each token, where asked for. prompt_logprobs: a position for each prompt token
    but the first, whose sampled token is the prompt's own; once, with the first output, where asked for.
    """

    token_ids: list[int]
    logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks. key: the name of the API key. weight: its share of an engine that others want too. priority:
    of the request; the lower ones come first."""

    key: str = ""
    weight: float = 1.0
    priority: int = 0


NOBODY = Requester()


@dataclass(frozen=True, slots=True)
class Job:
    """One candidate to generate. request_id: what the client was told, for the log and for messages.

    eos_ids: ids that end it (with finish_reason stop) unless params.ignore_eos. seed: this candidate's own.
    num_logprobs: None, or how many most likely tokens to report beside the sampled one. prompt_logprobs: of a
    prompt of two tokens or more, whose first has none. max_tokens: with prompt_logprobs it may be 0, and the
    prompt as long as the context. num_output_before: how many ids at the prompt's end were generated, by an
    engine that was lost: for penalties and draws they are output. urgency: where the engine itself has jobs
    wait, the lower ones come first. adapter: None: the model as it is. trail: what becomes of it is
    written there.
    """

    id: str
    request_id: str
    prompt_ids: list[int]
    params: GenerationParams
    eos_ids: tuple[int, ...]
    max_tokens: int
    seed: int = 0
    num_logprobs: int | None = None
    prompt_logprobs: bool = False
    num_output_before: int = 0
    requester: Requester = NOBODY
    urgency: int = 0
    adapter: Adapter | None = None
    trail: Trail | None = None


Sink = Callable[[EngineOutput | RequestFailure], None]


class Phase(StrEnum):
    """Where an engine is in its life, from the furthest from being ready on. UNLOADED: it is loaded when it
    is asked for. ASLEEP: so is it, its process lives. FAILED: for good; no other try would help."""

    FAILED = "failed"
    STOPPED = "stopped"
    UNLOADED = "unloaded"
    ASLEEP = "asleep"
    WAITING = "waiting"
    RESTARTING = "restarting"
    VERIFYING = "verifying checksums"
    IMPORTING = "importing"
    LOADING = "loading weights"
    WAKING = "waking"
    WARMING = "warming up"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Status:
    """phase, and its progress: done of total steps (total 0: not known), with a word on the step."""

    phase: Phase
    done: int = 0
    total: int = 0
    detail: str = ""

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def words(self) -> str:
        """Phase and progress."""
        return f"{self.phase} {self.done}/{self.total}" if self.total else str(self.phase)


Report = Callable[[Status], None]


@dataclass(frozen=True, slots=True)
class Death:
    """How an engine has ended by itself. is_hang: it did nothing any more, and was killed."""

    how: str
    is_hang: bool = False


class Engine(Protocol):
    """A model that runs. cache_tokens: that its prefix cache has room for, once it is ready; 0: not known."""

    @property
    def cache_tokens(self) -> int: ...

    async def start(self, report: Report) -> None:
        """Return when jobs run at full speed. Raises EngineFailed, or ConfigurationError for what no second
        try would mend."""

    def submit(self, job: Job, sink: Sink) -> None:
        """Begin a job. Never raises for the job: a failure goes to the sink."""

    def abort(self, job_id: str) -> None:
        """End a job within one step. Unknown ids are ignored: it may have just ended."""

    def memory(self) -> int:
        """Bytes that its processes hold; 0: that cannot be told. Takes a moment, and may be called
        from any thread."""

    async def died(self) -> Death:
        """Return only when the engine has died by itself."""

    async def close(self) -> None:
        """End the engine and leave no process behind. Safe to call twice, or before start has returned."""


@runtime_checkable
class Sleeper(Engine, Protocol):
    """An engine that can give its device's memory to others, and keeps its process, with the weights in the
    machine's memory. It is given no jobs until it has been woken. What its prefix cache held is gone."""

    async def sleep(self) -> None:
        """Called when it has no jobs. Raises EngineFailed where it cannot: it is to be closed then."""

    async def wake(self) -> None:
        """Raises EngineFailed where it cannot: it is to be closed then."""


def stopped() -> ServiceUnavailable:
    """What a job on an engine that has stopped fails with."""
    return ServiceUnavailable("the engine has stopped, and is being started again", retry_after_s=10)


def took_too_long(seconds: float) -> ServiceUnavailable:
    """What a job fails with that has waited so long for the next engine."""
    return ServiceUnavailable(
        f"the engine has stopped, and no other one was ready within {seconds:g} s (resume_timeout_s)",
        retry_after_s=30,
    )


def not_loaded(seconds: float) -> ServiceUnavailable:
    """What a job fails with that has waited so long for its model to be loaded."""
    return ServiceUnavailable(
        f"the model is loaded when it is asked for, and was not within {seconds:g} s (max_wait_s)",
        retry_after_s=30,
    )
