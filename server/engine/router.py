"""Chooses the replica for a job: the one that is expected to send its first token first.

A prompt costs the tokens that are not in the replica's cache, after the prompts that were sent there and have
no token yet. So the longest cached prefix decides, unless the replica's queue costs more than the prefix
saves. The candidates of a prompt stay together as long as that is faster. The idea, and the cost of running
jobs, is that of the key-value routers of SGLang and NVIDIA's Dynamo. Here, times are measured as well: the
same sum avoids a replica that is slow or does not answer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.engine.base import Job
from server.engine.prefixes import BLOCK, Prefixes, chain
from server.engine.replica import RENEWED, Replica
from server.engine.ticket import Route, Ticket

# Cost of a job that runs beside a prompt, in prompt tokens: it makes each step longer, and takes cache.
RUNNING = 16
# Cost of a first token if the prompt is cached, in prompt tokens.
STEP = 64
# Computing a prefix again also delays others and takes their cache, so it costs this much more than waiting
# for it. With a smaller factor, a long queue makes copies of what others hold, which make the
# queue longer (docs/tried.md).
ANEW = 3
# Until they are measured: seconds for each prompt token, and for a whole job.
TOKEN_S, JOB_S = 1e-4, 1.0
SLOW = 2.0  # times as slow between tokens as the others; below that, their batches may explain it
# Costs that differ by less count as equal, so that all processes that send to these replicas choose the same
# one. The value is per process: with more processes, each knows less.
ALIKE = 0.05


@dataclass(slots=True)
class Estimate:
    """prefill_s: for each prompt token. job_s: from a job's first token to its last."""

    prefill_s: float = TOKEN_S
    job_s: float = JOB_S


class Router:
    """The router of one model. It only knows what this process has sent. clock: in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefixes = Prefixes()
        self.estimate = Estimate()
        self._clock = clock

    def replica(self, number: int, num_places: int) -> Replica:
        return Replica(number, num_places, self._clock)

    def place(self, ticket: Ticket, replicas: Sequence[Replica], num_senders: int = 1) -> Replica:
        """Place a job on one of these replicas, which take jobs. num_senders: processes that send to them,
        this one included."""
        job = ticket.job
        prompt = [*job.prompt_ids, *ticket.delivered]
        blocks = chain(prompt, before=_salt(job))
        # For log-probabilities of a prompt, all of it is computed, whatever is cached.
        known = [] if job.prompt_logprobs and not ticket.delivered else blocks
        held = self.prefixes.held(known, [one.number for one in replicas])
        left = {one: _left(len(prompt), held[one.number]) for one in replicas}
        slowness = _slowness(replicas)
        costs = {one: slowness(one) * self._cost(one, left[one], num_senders) for one in replicas}
        limit = min(costs.values()) * (1 + ALIKE * num_senders)
        first = blocks[0] if blocks else hash(tuple(prompt))
        alike = [one for one in replicas if costs[one] <= limit]
        chosen = max(alike, key=lambda one: hash((first, one.number)))
        self.prefixes.add(chosen.number, blocks)
        num_ahead = STEP + left[chosen] + _ahead(chosen)
        chosen.place(
            ticket,
            Route(chosen.number, left[chosen], num_ahead, len(ticket.delivered), blocks, self._clock()),
        )
        return chosen

    def began(self, ticket: Ticket, replica: Replica) -> None:
        """The first token of a job has come."""
        replica.read(ticket)
        route = ticket.route
        if route is None or not route.num_ahead:
            return
        route.first_at = self._clock()
        if len(replica.placed) <= replica.num_places:
            token_s = (route.first_at - route.sent_at) / route.num_ahead
            self.estimate.prefill_s += RENEWED * (token_s - self.estimate.prefill_s)

    def ended(self, ticket: Ticket, replica: Replica) -> None:
        """A job has ended there. What it has generated is cached there too."""
        route = ticket.route
        if route is None or not route.first_at:
            return
        seconds = self._clock() - route.first_at
        self.estimate.job_s += RENEWED * (seconds - self.estimate.job_s)
        replica.measure(seconds, len(ticket.delivered) - route.num_before - 1)
        whole, blocks = [*ticket.job.prompt_ids, *ticket.delivered], route.blocks
        before = blocks[-1] if blocks else _salt(ticket.job)
        more = chain(whole, before=before, start=len(blocks) * BLOCK)
        self.prefixes.add(replica.number, [*blocks, *more])

    def _cost(self, replica: Replica, num_left: int, num_senders: int) -> float:
        """Predicted seconds until a first token."""
        seconds = (STEP + ANEW * num_left + _ahead(replica, num_senders)) * self.estimate.prefill_s
        if (over := len(replica.placed) + 1 - replica.num_places) > 0:
            seconds += over * self.estimate.job_s / replica.num_places
        return max(seconds, replica.waits_s)


def _ahead(replica: Replica, num_senders: int = 1) -> int:
    """The work before a new job, in prompt tokens. Other processes are assumed to have about as many jobs
    there; their waiting prompts are unknown, which is the same for each replica."""
    return replica.num_unread_tokens + num_senders * RUNNING * len(replica.placed)


def _salt(job: Job) -> int:
    """The start of the hash chain: jobs with another salt or adapter share no blocks."""
    text = job.params.cache_salt
    salt = 0 if text is None else int.from_bytes(text.encode())
    return salt if job.adapter is None else hash((job.adapter.number, salt))


def _left(num_tokens: int, num_blocks: int) -> int:
    """The tokens of a prompt that must be computed: at least one."""
    return max(num_tokens - num_blocks * BLOCK, 1)


def _slowness(replicas: Sequence[Replica]) -> Callable[[Replica], float]:
    """(replica) -> how many times slower than the others it is; 1 if about as fast."""
    known = [one.known_token_s for one in replicas if one.known_token_s]
    median = statistics.median_low(known) if len(known) > 1 else 0.0

    def slowness(replica: Replica) -> float:
        ratio = replica.known_token_s / median if median else 1.0
        return ratio if ratio >= SLOW else 1.0

    return slowness
