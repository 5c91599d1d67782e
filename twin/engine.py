"""The twin's engine: a continuous batch of candidates that supports every field of a request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from server.engine.base import (
    Death,
    EngineOutput,
    FinishReason,
    Job,
    Phase,
    Report,
    Sink,
    Status,
    TopLogprobs,
)
from server.text.grammars import Grammars
from twin.latency import Latency
from twin.sampler import Row, Sampler, shape_of, transforms_of

log = logging.getLogger(__name__)

# The ids of a prompt -> the ids of a fixed reply; None: the language model answers.
Reply = Callable[[list[int]], list[int] | None]


@dataclass(slots=True)
class Running:
    """A job in the batch. ends: ids that end it. reply: ids of its fixed reply; None: they are drawn.
    grammar: for structured output. unread: prompt tokens that are not computed yet. num_new:
    tokens generated here."""

    job: Job
    sink: Sink
    row: Row
    ends: frozenset[int]
    reply: list[int] | None
    unread: int
    grammar: LLMatcher | None = None
    num_new: int = 0


class TwinEngine:
    """Runs steps as long as there are jobs; a step takes its latency or its work, whichever is longer."""

    cache_tokens = 0

    def __init__(
        self,
        sampler: Sampler,
        latency: Latency,
        reply: Reply | None = None,
        grammars: Grammars | None = None,
        load_s: float = 0.0,
    ) -> None:
        """load_s: seconds from the start until it is ready."""
        self._sampler = sampler
        self._grammars = grammars
        self._latency = latency
        self._reply = reply
        self._load_s = load_s
        self._running: dict[str, Running] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._died = asyncio.Event()
        self._death = Death("")
        self._next = 0.0  # end of the current step (time.monotonic)

    async def start(self, report: Report) -> None:
        self._sampler.warm_up()
        if self._load_s:
            report(Status(Phase.LOADING))
            await asyncio.sleep(self._load_s)
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        transforms = transforms_of(job.params)
        num_prompt = len(job.prompt_ids) - job.num_output_before
        row = Row([*job.prompt_ids], num_prompt, transforms, job.seed, shape_of(transforms))
        eos = () if job.params.ignore_eos else job.eos_ids
        ends = frozenset((*job.params.stop_token_ids, *eos))
        reply = self._reply(job.prompt_ids[:num_prompt]) if self._reply is not None else None
        grammar = self._grammar(job, num_prompt)
        self._running[job.id] = Running(job, sink, row, ends, reply, len(job.prompt_ids), grammar)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.get_running_loop().create_task(self._step_on())

    def abort(self, job_id: str) -> None:
        self._running.pop(job_id, None)

    def memory(self) -> int:
        return 0

    async def died(self) -> Death:
        await self._died.wait()
        return self._death

    async def close(self) -> None:
        self._running.clear()
        if self._stepping is not None:
            self._stepping.cancel()

    def _grammar(self, job: Job, num_prompt: int) -> LLMatcher | None:
        if self._grammars is None or job.params.grammar is None:
            return None
        return self._grammars.begun(job.params.grammar, job.prompt_ids[num_prompt:])

    async def _step_on(self) -> None:
        """Run steps. A broad except stands here, so that no bug of ours leaves jobs waiting for ever."""
        try:
            await self._steps()
        except Exception as error:
            log.exception("a step has failed")
            self._running.clear()
            self._death = Death(f"a step has failed: {type(error).__name__}: {error}")
            self._died.set()

    async def _steps(self) -> None:
        self._next = time.monotonic()
        while self._running:
            batch, num_prompt_tokens = self._batch()
            self._next += self._latency.step_s(len(batch), num_prompt_tokens)
            left_s = self._next - time.monotonic()
            if left_s < 0:  # the work took longer than the latency
                self._next -= left_s
            await asyncio.sleep(max(0.0, left_s))
            self._step([one for one in batch if one.job.id in self._running])

    def _batch(self) -> tuple[list[Running], int]:
        """(jobs that get a token in this step, number of prompt tokens computed in it)."""
        left = self._latency.chunk
        batch = []
        for one in self._running.values():
            if one.unread and left:
                taken = min(one.unread, left)
                one.unread -= taken
                left -= taken
            if not one.unread:
                batch.append(one)
        return batch, self._latency.chunk - left

    def _step(self, batch: list[Running]) -> None:
        drawn = [one for one in batch if one.job.max_tokens and not self._is_scripted(one)]
        for one in drawn:
            num_held_back = one.job.params.min_tokens - one.num_new
            one.row.held_back = tuple(one.ends) if num_held_back > 0 else ()
            if one.grammar is not None:
                bits = np.frombuffer(one.grammar.compute_bitmask(), np.uint8)
                mask = np.unpackbits(bits, bitorder="little").astype(bool)
                one.row.mask = mask[: self._sampler.language.vocab_size]
        chosen = iter(self._sampler.choose([one.row for one in drawn]))
        for one in batch:
            if not one.job.max_tokens:
                self._end(one, EngineOutput([], None, self._scored(one), "length"))
            else:
                token_id = self._scripted(one) if self._is_scripted(one) else next(chosen)
                self._give(one, token_id)

    def _give(self, one: Running, token_id: int) -> None:
        job = one.job
        logprobs = None
        if job.num_logprobs is not None:
            found = self._sampler.logprobs(
                one.row.before, token_id, job.num_logprobs, one.row.mask, job.params.logprob_token_ids
            )
            logprobs = TopLogprobs(1 + job.num_logprobs, *found)
        scored = self._scored(one) if not one.num_new else None
        one.row.tokens.append(token_id)
        if one.grammar is not None:
            one.grammar.consume_token(token_id)
        one.num_new += 1
        reason: FinishReason | None = None
        if token_id in one.ends and one.num_new > job.params.min_tokens:
            reason = "stop"
        elif one.num_new == job.max_tokens:
            reason = "length"
        output = EngineOutput([token_id], logprobs, scored, reason)
        if reason is None:
            one.sink(output)
        else:
            self._end(one, output)

    def _end(self, one: Running, output: EngineOutput) -> None:
        del self._running[one.job.id]
        one.sink(output)

    def _scored(self, one: Running) -> TopLogprobs | None:
        if not one.job.prompt_logprobs:
            return None
        return self._sampler.prompt_logprobs(one.job.prompt_ids, one.job.num_logprobs or 0)

    def _is_scripted(self, one: Running) -> bool:
        """Whether its next token is from a fixed reply, or the end of the text after it."""
        if one.reply is None:
            return False
        if one.row.position < len(one.reply):
            return True
        ends = bool(one.job.eos_ids) and not one.job.params.ignore_eos
        # Until min_tokens, the language model continues
        return ends and one.num_new >= one.job.params.min_tokens

    def _scripted(self, one: Running) -> int:
        assert one.reply is not None, "asked before"
        position = one.row.position
        return one.reply[position] if position < len(one.reply) else one.job.eos_ids[0]
