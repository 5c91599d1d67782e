"""The candidates of one request: fan out, seeds, ranking, and the end of them all.

Engine outputs are pushed in as they come; deltas are pulled out in batches, all that came since the last
pull.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from sampling.best_of import mean_logprob, rank
from server.engine.base import EngineOutput, Job
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


class Contest:
    """The candidates of one prompt when best_of > n: their deltas wait until the best are known.

    first_index: of the choices that the winners become.
    """

    def __init__(self, first_index: int, params: GenerationParams) -> None:
        self._first_index = first_index
        self._n = params.n
        self._deltas: list[list[Delta]] = [[] for _ in range(params.best_of)]
        self._sums = [0.0] * params.best_of
        self._unfinished = params.best_of

    def enter(self, number: int, delta: Delta, output: EngineOutput) -> list[Delta]:
        """Take a candidate's delta. Returns the winners' deltas, best first, once all have finished."""
        if output.logprobs is not None:
            # One by one: the same sum, however many tokens come at once.
            for entry in output.logprobs[: delta.num_tokens]:
                self._sums[number] += entry.logprobs[0]
        self._deltas[number].append(delta)
        if delta.finish_reason is not None:
            self._unfinished -= 1
        return self._winners() if self._unfinished == 0 else []

    def _winners(self) -> list[Delta]:
        lengths = [sum(delta.num_tokens for delta in deltas) for deltas in self._deltas]
        winners = rank(list(map(mean_logprob, self._sums, lengths)), self._n)
        return [
            replace(delta, index=self._first_index + place)
            for place, number in enumerate(winners)
            for delta in self._deltas[number]
        ]


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
        params, numbers = self.params, count()
        unique = uuid.uuid4().hex  # a client may send the same x-request-id twice at once
        for prompt_index, prompt in enumerate(self._prompts):
            ranked = params.best_of > params.n
            contest = Contest(prompt_index * params.n, params) if ranked else None
            for number in range(params.best_of):
                text = CandidateText(prompt_index * params.n + number, prompt, params, self._tokenizer)
                job = self._job(f"{unique}-{next(numbers)}", prompt_index, number)
                sink = partial(self._receive, job.id, number, text, contest)
                if params.max_tokens == 0 and not job.prompt_logprobs:
                    sink(EngineOutput([], finish_reason="length"))
                    continue
                self._running.add(job.id)
                self._engine.submit(job, sink)

    def _job(self, job_id: str, prompt_index: int, number: int) -> Job:
        params = self.params
        num_logprobs = params.num_logprobs
        if num_logprobs is None and params.best_of > params.n:
            num_logprobs = 0  # ranking needs the sampled tokens' own
        return Job(
            id=job_id,
            request_id=self._id,
            prompt_ids=self._prompts[prompt_index].ids,
            params=params,
            eos_ids=self._tokenizer.eos_ids,
            max_tokens=max(1, params.max_tokens),
            seed=candidate_seed(params.seed, prompt_index, number),
            num_logprobs=num_logprobs,
            prompt_logprobs=params.echo and params.num_logprobs is not None,
        )

    def _receive(
        self,
        job_id: str,
        number: int,
        text: CandidateText,
        contest: Contest | None,
        output: EngineOutput | RequestFailure,
    ) -> None:
        self._wake.set()
        if isinstance(output, RequestFailure):
            self._running.discard(job_id)
            self._failure = output
            return
        delta = text.push(output)
        self.usage.completion_tokens += delta.num_tokens
        if delta.finish_reason is not None and job_id in self._running:
            self._running.discard(job_id)
            if output.finish_reason is None:  # a stop sequence or max_tokens 0: the engine does not know
                self._engine.abort(job_id)
        if contest is not None:
            self._ready += contest.enter(number, delta, output)
        else:
            self._ready.append(delta)
