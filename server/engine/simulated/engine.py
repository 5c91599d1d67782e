"""An engine without a model, for tests of everything above it: the same protocol, invented tokens."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable

from server.engine.base import Death, EngineOutput, Job, Phase, Report, Sink, Status, TopLogprobs

# (job, number of its tokens including those of earlier engines) -> the id of the next token.
Script = Callable[[Job, int], int]


class SimulatedEngine:
    """Answers each job with one token per step.

    vocab_size: ids are below it. script: decides the tokens; by default a hash of seed, prompt and position,
    so that the same job gets the same answer. step_s: seconds per step. death: a test sets it to make the
    engine die.
    """

    cache_tokens = 0

    def __init__(self, vocab_size: int, *, script: Script | None = None, step_s: float = 0.0) -> None:
        self.vocab_size = vocab_size
        self.step_s = step_s
        self.death: asyncio.Event = asyncio.Event()
        self.aborted: list[str] = []
        self._script = script or self._hashed
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def running(self) -> set[str]:
        return set(self._running)

    async def start(self, report: Report) -> None:
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        self._running[job.id] = asyncio.get_running_loop().create_task(self._run(job, sink))

    def abort(self, job_id: str) -> None:
        if job_id in self._running:
            self._running.pop(job_id).cancel()
            self.aborted.append(job_id)

    def memory(self) -> int:
        return 0

    async def sleep(self) -> None:
        self._stop()

    async def wake(self) -> None:
        pass

    async def died(self) -> Death:
        await self.death.wait()
        self._stop()
        return Death("the simulated engine was told to die")

    async def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        while self._running:
            self._running.popitem()[1].cancel()

    async def _run(self, job: Job, sink: Sink) -> None:
        prompt_logprobs = None
        if job.prompt_logprobs:
            prompt_logprobs = TopLogprobs(1 + (job.num_logprobs or 0))
            for i, token_id in enumerate(job.prompt_ids[1:]):
                prompt_logprobs.extend(self._logprobs(job, i, token_id))
        if not job.max_tokens:
            await asyncio.sleep(self.step_s)
            del self._running[job.id]
            sink(EngineOutput([], None, prompt_logprobs, "length"))
        for position in range(job.max_tokens):
            await asyncio.sleep(self.step_s)
            token_id = self._script(job, at := job.num_output_before + position)
            ends = not job.params.ignore_eos and token_id in job.eos_ids
            ends = (ends or token_id in job.params.stop_token_ids) and position >= job.params.min_tokens
            last = position + 1 == job.max_tokens
            if ends or last:
                del self._running[job.id]
            logprobs = None if job.num_logprobs is None else self._logprobs(job, at, token_id)
            sink(
                EngineOutput(
                    [token_id], logprobs, prompt_logprobs, "stop" if ends else "length" if last else None
                )
            )
            prompt_logprobs = None
            if ends:
                return

    def _hashed(self, job: Job, position: int) -> int:
        adapter = () if job.adapter is None else (job.adapter.name,)
        return self._hash(job.seed, _prompt(job), position, *adapter) % self.vocab_size

    def _logprobs(self, job: Job, position: int, token_id: int) -> TopLogprobs:
        """k invented tokens of falling probability; every other time, the sampled token is among them."""
        k = job.num_logprobs or 0
        start = self._hash("top", _prompt(job), position)
        named = job.params.logprob_token_ids
        top = [*named] if named else [(start + i) % self.vocab_size for i in range(k)]
        values = [-math.log(2.0) * (i + 1) for i in range(k)]
        if k and start % 2 and token_id not in top and not named:
            top[0] = token_id
        own = values[top.index(token_id)] if token_id in top else -math.log(2.0) * (k + 2)
        return TopLogprobs(1 + k, [token_id, *top], [own, *values])

    @staticmethod
    def _hash(*parts: object) -> int:
        return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest())


def _prompt(job: Job) -> list[int]:
    """The prompt without the tokens that an earlier engine has generated."""
    return job.prompt_ids[: len(job.prompt_ids) - job.num_output_before]
