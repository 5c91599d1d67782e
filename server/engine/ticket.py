"""One job on its way through the engines that work on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from server.engine.base import EngineOutput, Job, Sink
from server.errors import RequestFailure
from server.observe.trail import Step


@dataclass(slots=True)
class Route:
    """Where a job is, and what was known when it was sent there.

    replica: the number of the replica. The rest is only used with several replicas (router.py). num_left:
    tokens of its prompt that must be computed. num_ahead: tokens to compute before its first token, other
    prompts included. num_before: tokens that it has generated elsewhere. blocks: of its prompt. Times in
    seconds; 0: not yet.
    """

    replica: int
    num_left: int = 0
    num_ahead: int = 0
    num_before: int = 0
    blocks: list[int] = field(default_factory=list)
    sent_at: float = 0.0
    first_at: float = 0.0


@dataclass(slots=True, eq=False)
class Ticket:
    """number: in the order of submission. on_end: called before its last output is passed on. on_token:
    called with the first output after it was sent, if is_watched is set then.

    delivered: ids that its sink has received; num_charged: how many of them were charged to its key.
    engine_id: the job's name on its engine; num_lives: how often it was sent to one. num_deaths: engines lost
    in a row, without a token in between; all_deaths: in all. waits_since: when it lost the last one
    (time.monotonic), while it waits for the next. came_at: when it was submitted. route: where it is; None:
    it waits, or is_paused: it has no turn, until its request wants it to continue.
    """

    number: int
    job: Job
    sink: Sink
    on_end: Callable[[Ticket], None]
    on_token: Callable[[Ticket], None]
    delivered: list[int] = field(default_factory=list)
    num_charged: int = 0
    engine_id: str = ""
    num_lives: int = 0
    num_deaths: int = 0
    all_deaths: int = 0
    waits_since: float | None = None
    came_at: float = field(default_factory=time.monotonic)
    is_watched: bool = False
    is_paused: bool = False
    route: Route | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Its order among the waiting jobs of its key: by priority, then by arrival."""
        return self.job.requester.priority, self.number

    def take(self, output: EngineOutput | RequestFailure) -> None:
        """The sink of its engine."""
        if isinstance(output, EngineOutput):
            self.delivered += output.token_ids
            if self.is_watched:
                self.is_watched = False
                self.mark(Step.BEGAN)
                self.on_token(self)
            if output.finish_reason is not None:
                if self.job.trail is not None:
                    self.job.trail.by_engine = True
                self.on_end(self)
        else:
            self.on_end(self)
        self.sink(output)

    def mark(self, step: Step, replica: int = 0, cause: str = "") -> None:
        """Record this step in its trail."""
        if (trail := self.job.trail) is not None:
            trail.mark(step, replica, cause)
            trail.token_ids = self.delivered

    def recalled(self) -> None:
        """The job is taken from its engine."""
        self.mark(Step.RECALLED)

    def rest(self, urgency: int) -> Job:
        """The rest of the job, under a new name, so that outputs of an earlier engine cannot match. urgency:
        as Job's."""
        job, num = self.job, len(self.delivered)
        self.engine_id = f"{job.id}.{self.num_lives}" if self.num_lives else job.id
        self.num_lives += 1
        if job.trail is not None:
            self.mark(Step.SENT, self.route.replica if self.route is not None else 0)
            self.is_watched = True
        if not num:
            return replace(job, id=self.engine_id, urgency=urgency)
        return replace(
            job,
            id=self.engine_id,
            prompt_ids=[*job.prompt_ids, *self.delivered],
            params=replace(job.params, min_tokens=max(0, job.params.min_tokens - num)),
            max_tokens=job.max_tokens - num,
            prompt_logprobs=False,  # they came with the first token
            num_output_before=num,
            urgency=urgency,
        )
