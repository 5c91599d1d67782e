"""The candidates of one request: fan out, seeds, and the end of them all.

Engine outputs are pushed in as they come; deltas are pulled out in batches, all that came since the last
pull.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial

from server.contest import Contest
from server.engine.base import EngineOutput, Job, Sink
from server.engine.supervisor import Supervisor
from server.errors import RequestFailure
from server.outputs import CandidateText, Delta, PromptText
from server.params import GenerationParams, candidate_seed
from server.text import Tokenizer


@dataclass(slots=True)
class Usage:
    """Tokens. Each prompt counts once; every candidate's completion counts, returned or not."""

    prompt_tokens: int
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Generation:
    """One request on its way through an engine.

    Choice index = prompt number × n + rank. When it is closed, or `deltas` is left early, every candidate is
    aborted.
    """

    def __init__(
        self,
        request_id: str,
        prompts: list[PromptText],
        params: GenerationParams,
        engine: Supervisor,
        tokenizer: Tokenizer,
    ) -> None:
        self.params = params
        self.num_choices = len(prompts) * params.n
        self.usage = Usage(sum(len(prompt.ids) for prompt in prompts))
        self._id = request_id
        self._unique = uuid.uuid4().hex  # a client may send the same x-request-id twice at once
        self._prompts = prompts
        self._engine = engine
        self._tokenizer = tokenizer
        self._running: set[str] = set()
        self._ready: list[Delta] = []
        self._failure: RequestFailure | None = None
        self._wake = asyncio.Event()

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """Batches of deltas until every choice has finished. Raises the failure that ended a candidate."""
        unfinished = self.num_choices
        try:
            self._start()
            while unfinished:
                await self._wake.wait()
                self._wake.clear()
                if self._failure is not None:
                    raise self._failure
                batch, self._ready = self._ready, []
                unfinished -= sum(delta.finish_reason is not None for delta in batch)
                if batch:
                    yield batch
        finally:
            self.close()

    def close(self) -> None:
        """Abort what still runs. Safe to call twice."""
        for job_id in self._running:
            self._engine.abort(job_id)
        self._running.clear()

    def _start(self) -> None:
        jobs = [started for k, prompt in enumerate(self._prompts) for started in self._candidates(k, prompt)]
        self._running = {job.id for job, _ in jobs}
        for job, sink in jobs:
            if job.id not in self._running:  # an engine that answers at once has ended it before its start
                continue
            if self.params.max_tokens == 0 and not job.prompt_logprobs:
                sink(EngineOutput([], finish_reason="length"))
            else:
                self._engine.submit(job, sink)

    def _candidates(self, prompt_index: int, prompt: PromptText) -> Iterator[tuple[Job, Sink]]:
        """The jobs of one prompt, each with the sink for its outputs."""
        params, tokenizer, first_index = self.params, self._tokenizer, prompt_index * self.params.n
        contest = Contest(first_index, prompt, params, tokenizer) if params.best_of > params.n else None
        for number in range(params.best_of):
            job = self._job(prompt_index, number)
            if contest is not None:
                yield job, partial(self._ranked, prompt_index, number, contest)
            else:
                text = CandidateText(first_index + number, prompt, params, tokenizer)
                yield job, partial(self._returned, job.id, text)

    def _job_id(self, prompt_index: int, number: int) -> str:
        return f"{self._unique}-{prompt_index * self.params.best_of + number}"

    def _job(self, prompt_index: int, number: int) -> Job:
        params = self.params
        num_logprobs = params.num_logprobs
        if num_logprobs is None and params.best_of > params.n:
            num_logprobs = 0  # ranking needs the sampled tokens' own
        return Job(
            id=self._job_id(prompt_index, number),
            request_id=self._id,
            prompt_ids=self._prompts[prompt_index].ids,
            params=params,
            eos_ids=self._tokenizer.eos_ids,
            max_tokens=max(1, params.max_tokens),
            seed=candidate_seed(params.seed, prompt_index, number),
            num_logprobs=num_logprobs,
            prompt_logprobs=params.echo and params.num_logprobs is not None,
        )

    def _returned(self, job_id: str, text: CandidateText, output: EngineOutput | RequestFailure) -> None:
        """The sink of a candidate that is a choice."""
        self._wake.set()
        if isinstance(output, RequestFailure):
            self._failure = output
            return
        delta = text.push(output)
        self.usage.completion_tokens += delta.num_tokens
        self._ready.append(delta)
        if delta.finish_reason is not None:
            self._end(job_id)

    def _ranked(
        self, prompt_index: int, number: int, contest: Contest, output: EngineOutput | RequestFailure
    ) -> None:
        """The sink of a candidate that may become one."""
        if isinstance(output, RequestFailure):
            self._wake.set()
            self._failure = output
            return
        num_tokens, ended = contest.receive(number, output)
        self.usage.completion_tokens += num_tokens
        for other in ended:
            self._end(self._job_id(prompt_index, other))
        if contest.is_over:
            self._wake.set()
            self._ready += contest.winners()

    def _end(self, job_id: str) -> None:
        """A candidate has ended, whether or not the engine knows."""
        if job_id in self._running:
            self._running.remove(job_id)
            self._engine.abort(job_id)
