"""A simulated engine: a simple model of vLLM's scheduler, with measured step times.

A step has a token of each generating job, and as much of the waiting prompts as its budget allows, in order
of arrival. Blocks in the cache are not computed again. If there are no more blocks, the job that came last
starts again.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from benchmarks.fleet.blocks import Blocks
from server.engine.base import Death, EngineOutput, Job, Report, Sink
from server.engine.prefixes import BLOCK, chain

# Llama 3 8B in 16 bits on one A100: everything but attention, in ms, by the tokens in the step. Measured by
# others: the medians in microsoft/vidur, data/profiling/compute/a100/meta-llama/Meta-Llama-3-8B/mlp.csv
# (Agrawal et al., "Vidur", MLSys 2024), the sum of a layer's parts times 32 layers.
TOKENS = (1, 64, 128, 144, 200, 512, 656, 1952, 2048, 2464)
STEP_MS = (9.8, 11.3, 13.3, 18.3, 18.6, 34.8, 50.3, 137.7, 142.6, 169.2)
# Attention, calculated: a generated token reads the keys and values of its text, 131,072 bytes a token at 1.6
# TB/s; a prompt token takes 4 × 4,096 × 32 operations with each token before it, at 150 TFLOP/s.
READ_S, PAIR_S = 131_072 / 1.6e12, 4 * 4096 * 32 / 150e12


def linear_s(num_tokens: int) -> float:
    """Seconds of a step with this many tokens, without attention."""
    index = min(max(bisect_left(TOKENS, num_tokens), 1), len(TOKENS) - 1)
    before, after = TOKENS[index - 1], TOKENS[index]
    share = (num_tokens - before) / (after - before)
    return 1e-3 * (STEP_MS[index - 1] + share * (STEP_MS[index] - STEP_MS[index - 1]))


@dataclass(frozen=True, slots=True)
class Shape:
    """An engine's settings. num_blocks: 40 GB of cache beside 16 GB of weights. speed: relative to the
    measured one."""

    num_blocks: int = 9_500
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    speed: float = 1.0


def reply(job: Job) -> list[int]:
    """The generated tokens: as many as allowed, and different for each job."""
    first = (1 << 32) + job.seed * 8192
    return [*range(first, first + job.max_tokens)]


@dataclass(slots=True, eq=False)
class Sequence:
    """A job on the engine. prompt: including what was generated before it started again. num_read: its tokens
    that have been computed. first: the step of its first token since then; 0: none yet. num_made: tokens
    generated until then, including that one; num_told: tokens that its sink has. hashes: of the prompt."""

    job: Job
    sink: Sink
    prompt: list[int]
    hashes: list[int]
    num_read: int = 0
    first: int = 0
    num_made: int = 0
    num_told: int = 0

    def tell(self, num_made: int) -> None:
        tokens, self.num_told = reply(self.job)[self.num_told : num_made], num_made
        self.sink(EngineOutput(tokens, None, None, "length" if num_made == self.job.max_tokens else None))


@dataclass(slots=True)
class Counts:
    """num_hits, num_queries: prompt tokens in the cache, and all prompt tokens, as vLLM counts them."""

    num_hits: int = 0
    num_queries: int = 0
    num_preempted: int = 0
    busy_s: float = 0.0


class SteppedEngine:
    """The simulated engine; implements Engine."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.cache_tokens = 0  # run.py sets it separately if it is known
        self.counts = Counts()
        self.blocks = Blocks(shape.num_blocks)
        self.num_steps = 0  # completed steps
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}  # in order of arrival
        self._reading: list[Sequence] = []  # those whose prompts are being computed
        self._ending: dict[int, list[Sequence]] = {}  # the others, by their last step
        self._growing = [0] * BLOCK  # how many need a block in a step with this number, modulo 16
        self._num_generating = self._num_looked_at = 0  # jobs, and the tokens of their texts
        self._step: asyncio.Handle | None = None

    async def start(self, report: Report) -> None:
        """Ready at once."""

    def memory(self) -> int:
        return 0

    async def died(self) -> Death:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        if self._step is not None:
            self._step.cancel()

    @property
    def num_jobs(self) -> int:
        return len(self._waiting) + len(self._running)

    def submit(self, job: Job, sink: Sink) -> None:
        self._waiting.append(Sequence(job, sink, job.prompt_ids, chain(job.prompt_ids)))
        if self._step is None:
            self._step = asyncio.get_running_loop().call_soon(self._begin)

    def abort(self, job_id: str) -> None:
        if (one := self._running.get(job_id)) is not None:
            self._stop(one)
        self._waiting = deque(one for one in self._waiting if one.job.id != job_id)

    def _begin(self) -> None:
        """Begin a step, if there is anything to do."""
        self._grow()
        budget = self.shape.max_num_batched_tokens - self._num_generating
        read, pairs = list[tuple[Sequence, int]](), 0
        self._admit(budget)
        for one in self._reading:
            num = min(budget, len(one.prompt) - one.num_read)
            budget -= num
            pairs += num * (one.num_read + num // 2)
            read.append((one, num))
        num_tokens = self.shape.max_num_batched_tokens - budget
        if not num_tokens:
            self._step = None
            return
        seconds = linear_s(num_tokens) + self._num_looked_at * READ_S + pairs * PAIR_S
        seconds /= self.shape.speed
        self.counts.busy_s += seconds
        self._step = asyncio.get_running_loop().call_later(seconds, self._end, read)

    def _end(self, read: list[tuple[Sequence, int]]) -> None:
        self.num_steps += 1
        self._num_looked_at += self._num_generating
        self._step = asyncio.get_running_loop().call_soon(self._begin)
        for one in [*self._ending.get(self.num_steps, ())]:
            self._stop(one)
            one.tell(one.job.max_tokens)
        self._ending.pop(self.num_steps, None)
        for one, num in read:
            one.num_read += num
            if one.num_read < len(one.prompt) or self._running.get(one.job.id) is not one:
                continue
            self._reading.remove(one)
            one.first = self.num_steps
            one.num_made += 1
            self._num_generating += 1
            self._num_looked_at += len(one.prompt)
            self._growing[self._grows_in(one)] += 1
            last = self.num_steps + one.job.max_tokens - one.num_made
            self._ending.setdefault(last, []).append(one)
            if last == self.num_steps:
                self._stop(one)
            one.tell(one.num_made)

    def _admit(self, budget: int) -> None:
        """Jobs that begin in this step."""
        budget -= sum(len(one.prompt) - one.num_read for one in self._reading)
        while self._waiting and budget > 0 and len(self._running) < self.shape.max_num_seqs:
            one = self._waiting[0]
            num_tokens = len(one.prompt)
            num_held = self.blocks.num_held(one.hashes[: (num_tokens - 1) // BLOCK])
            if not self.blocks.take(one.hashes, num_others=-(-num_tokens // BLOCK) - len(one.hashes)):
                break
            self._waiting.popleft()
            one.num_read = num_held * BLOCK
            budget -= num_tokens - one.num_read
            if not one.num_made:  # as in vLLM, which counts restarted ones elsewhere
                self.counts.num_hits += one.num_read
                self.counts.num_queries += num_tokens
            self._running[one.job.id] = one
            self._reading.append(one)

    def _grow(self) -> None:
        """Take blocks for the tokens generated in this step."""
        index = (self.num_steps + 1) % BLOCK
        while (num := self._growing[index]) and not self.blocks.take((), num):
            one = next(reversed(self._running.values()))
            num_made = one.num_made + (self.num_steps - one.first if one.first else 0)
            self._stop(one)
            self.counts.num_preempted += 1
            again = [*one.job.prompt_ids, *reply(one.job)[:num_made]]
            one.prompt, one.hashes, one.num_made, one.first = again, chain(again), num_made, 0
            self._waiting.appendleft(one)

    def _stop(self, one: Sequence) -> None:
        """Stop working on the job."""
        del self._running[one.job.id]
        num_tokens = len(one.prompt)
        text = one.hashes
        if one.first:
            num_more = self.num_steps - one.first
            more = reply(one.job)[one.num_made - 1 : one.num_made - 1 + num_more]
            text = [*text, *_more(one, more)]
            num_tokens += num_more
            self._num_generating -= 1
            self._num_looked_at -= num_tokens
            self._growing[self._grows_in(one)] -= 1
            self._ending[one.first + one.job.max_tokens - one.num_made].remove(one)
        else:
            self._reading.remove(one)
            text = text[: one.num_read // BLOCK]
        self.blocks.give(one.hashes, text, -(-num_tokens // BLOCK) - len(one.hashes))

    @staticmethod
    def _grows_in(one: Sequence) -> int:
        """The number, modulo 16, of the steps in which it needs a block."""
        return (one.first + 1 - len(one.prompt)) % BLOCK


def _more(one: Sequence, tokens: list[int]) -> list[int]:
    """The hashes of the blocks that generated tokens have filled."""
    known = len(one.hashes)
    before = one.hashes[-1] if known else 0
    return chain([*one.prompt[known * BLOCK :], *tokens], before=before)
