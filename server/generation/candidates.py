"""The candidates of one request: makes them, derives their seeds, and ends them.

An engine pushes outputs as they come. The outputs of one step, for whichever candidates, are handled together
and passed on as one batch of deltas: no task is woken for a token.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from server.contract.params import GenerationParams, candidate_seed
from server.engine.base import NOBODY, EngineOutput, FinishReason, Job, Requester, Sink, TopLogprobs
from server.engine.replicas import Replicas
from server.errors import InternalError, RequestFailure
from server.generation.contest import Contest, Outcome
from server.generation.outputs import CandidateText, Delta, PromptText
from server.observe.trail import Trail
from server.text.detokenizer import Detokenizer
from server.text.tokenizer import Tokenizer
from server.weights.adapters import Adapter

log = logging.getLogger(__name__)


Take = Callable[[list[Delta]], None]


@dataclass(slots=True)
class Usage:
    """Token counts. Each prompt counts once; every candidate's completion counts, returned or not."""

    prompt_tokens: int
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """One running candidate. text: if it is a choice. contest: if it may become one; number is then
    its place there."""

    job_id: str
    prompt_index: int
    number: int
    text: CandidateText | None = None
    contest: Contest | None = None

    @property
    def outcome(self) -> Outcome:
        if self.contest is not None:
            return self.contest.outcome(self.number)
        assert self.text is not None, "one of them is there"
        return Outcome(self.text.num_tokens, self.text.finish_reason, self.text.index)


class PromptScores:
    """A prompt's log-probabilities. Only the first of its candidates asks for them, because all have the
    same; outputs of the others that come before them are held.

    arrive: called with each output, once they are there.
    """

    def __init__(self, arrive: Callable[[Candidate, EngineOutput | RequestFailure], None]) -> None:
        self._arrive = arrive
        self._logprobs: TopLogprobs | None = None
        self._held: list[tuple[Candidate, EngineOutput]] = []

    def take(self, candidate: Candidate, output: EngineOutput | RequestFailure) -> None:
        """A candidate's sink."""
        if isinstance(output, RequestFailure):
            self._arrive(candidate, output)
            return
        self._held.append((candidate, output))
        self._logprobs = self._logprobs or output.prompt_logprobs
        if self._logprobs is not None:
            held, self._held = self._held, []
            for one, earlier in held:
                earlier.prompt_logprobs = self._logprobs
                self._arrive(one, earlier)


class Generation:
    """One request on its way through an engine. Choice index = prompt number × n + rank.

    finish_reasons: of the choices that have ended, by index. trails: if it is a list when the candidates
    begin, each candidate's trail is added to it. also: gets each batch of deltas, before the
    `take` of `start`.
    """

    def __init__(
        self,
        request_id: str,
        prompts: list[PromptText],
        params: GenerationParams,
        engine: Replicas,
        tokenizer: Tokenizer,
        requester: Requester = NOBODY,
        adapter: Adapter | None = None,
    ) -> None:
        self.params = params
        self.num_choices = len(prompts) * params.n
        self.num_prompts, self.num_candidates = len(prompts), len(prompts) * params.best_of
        self.finish_reasons: dict[int, FinishReason] = {}
        self.usage = Usage(sum(len(prompt.ids) for prompt in prompts))
        # Tokens of the prompts and of every candidate, if each is as long as allowed.
        self.most_tokens = self.usage.prompt_tokens + len(prompts) * params.best_of * params.max_tokens
        # For those that follow the request: the journal and traces.
        self.trails: list[Trail] | None = None
        self.also: Take | None = None
        self._candidates_made: list[Candidate] = []
        self._id = request_id
        self._unique = secrets.token_hex(16)  # a client may use the same x-request-id twice at once
        # If no seed is given, one is drawn, so that a candidate can continue in another engine with the same
        # random numbers.
        self._seed = secrets.randbits(63) if params.seed is None else params.seed
        self._prompts = prompts
        self._engine = engine
        self._tokenizer = tokenizer
        self._requester = requester
        self._adapter = adapter
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._take: Take = list[Delta]().extend
        self._running: set[str] = set()
        self._arrived: list[tuple[Candidate, EngineOutput | RequestFailure]] = []
        self._unfinished = self.num_choices
        self._is_alone = len(prompts) * params.best_of == 1

    @property
    def is_resuming(self) -> bool:
        """Whether a candidate waits because it has lost its engine or its place there, or because its model
        is being loaded."""
        return any(map(self._engine.work.is_paused, self._running))

    @property
    def progress(self) -> str:
        """The progress of what it waits for, in words."""
        return self._engine.progress

    @property
    def seed(self) -> int:
        """The requested seed, or the drawn one."""
        return self._seed

    @property
    def prompts(self) -> list[PromptText]:
        return self._prompts

    def outcomes(self) -> list[Outcome]:
        """The outcome of each candidate so far: the first prompt's, then the next one's."""
        return [candidate.outcome for candidate in self._candidates_made]

    def prompt_texts(self) -> list[str]:
        """The prompts as written, or decoded from their ids."""
        return [self.text_of(one.ids) if one.text is None else one.text for one in self._prompts]

    def text_of(self, token_ids: Sequence[int]) -> str:
        detokenizer = Detokenizer(self._tokenizer, skip_special=self.params.skip_special_tokens)
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()

    def start(self, take: Take) -> asyncio.Future[None]:
        """Begin. `take` is called with each batch of deltas.

        Returns a future that is done after the last batch, or has the RequestFailure that ended a candidate,
        and with it all.
        """
        self._take = take if self.also is None else partial(_both, self.also, take)
        jobs = [started for k, prompt in enumerate(self._prompts) for started in self._candidates(k, prompt)]
        self._running = {job.id for job, _ in jobs}
        for job, sink in jobs:
            if self.params.max_tokens == 0 and not job.prompt_logprobs:
                sink(EngineOutput([], finish_reason="length"))
            else:
                self._engine.submit(job, sink)
        return self._ended

    def close(self) -> None:
        """Abort running candidates, and take no more outputs. Safe to call twice, and after the end."""
        for job_id in self._running:
            self._engine.abort(job_id)
        self._running.clear()
        # Those that take deltas refer to this, too: a circle, which would stay until the garbage collector
        # comes, with prompts and texts. It comes seldom.
        self._take, self.also = list[Delta]().extend, None

    def _candidates(self, prompt_index: int, prompt: PromptText) -> Iterator[tuple[Job, Sink]]:
        """The jobs of one prompt, each with the sink for its outputs."""
        params, tokenizer, first_index = self.params, self._tokenizer, prompt_index * self.params.n
        contest = Contest(first_index, prompt, params, tokenizer) if params.best_of > params.n else None
        is_shared = self._scores_prompt(prompt_index) and params.best_of > 1
        take = PromptScores(self._arrive).take if is_shared else self._arrive
        for number in range(params.best_of):
            text = None if contest else CandidateText(first_index + number, prompt, params, tokenizer)
            job = self._job(prompt_index, number)
            candidate = Candidate(job.id, prompt_index, number, text, contest)
            self._candidates_made.append(candidate)
            yield job, partial(take, candidate)

    def _scores_prompt(self, prompt_index: int) -> bool:
        """Whether the prompt's log-probabilities are needed; its first token has none."""
        asked = self.params.echo and self.params.num_logprobs is not None
        return asked and len(self._prompts[prompt_index].ids) > 1

    def _job_id(self, prompt_index: int, number: int) -> str:
        return f"{self._unique}-{prompt_index * self.params.best_of + number}"

    def _job(self, prompt_index: int, number: int) -> Job:
        params = self.params
        num_logprobs = params.num_logprobs
        if num_logprobs is None and params.best_of > params.n:
            num_logprobs = 0  # ranking needs the log-probabilities of the sampled tokens
        if params.logprob_token_ids:
            num_logprobs = len(params.logprob_token_ids)
        return Job(
            id=self._job_id(prompt_index, number),
            request_id=self._id,
            prompt_ids=self._prompts[prompt_index].ids,
            params=params,
            eos_ids=self._tokenizer.eos_ids,
            max_tokens=params.max_tokens,
            seed=candidate_seed(self._seed, prompt_index, number),
            num_logprobs=num_logprobs,
            prompt_logprobs=number == 0 and self._scores_prompt(prompt_index),
            requester=self._requester,
            adapter=self._adapter,
            trail=self._trail(prompt_index, number) if self.trails is not None else None,
        )

    def _trail(self, prompt_index: int, number: int) -> Trail:
        assert self.trails is not None, "asked before"
        self.trails.append(trail := Trail(prompt_index, number))
        return trail

    def _arrive(self, candidate: Candidate, output: EngineOutput | RequestFailure) -> None:
        """Handle an output of a candidate. A single candidate does not wait for other outputs of
        the same step."""
        if self._is_alone:
            self._advance(((candidate, output),))
            return
        self._arrived.append((candidate, output))
        if len(self._arrived) == 1:
            self._loop.call_soon(self._advance_all)

    def _advance_all(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._advance(arrived)

    def _advance(self, arrived: Sequence[tuple[Candidate, EngineOutput | RequestFailure]]) -> None:
        """Work on the outputs that have arrived. A broad except stands here: a bug of ours ends its request
        and nothing else."""
        deltas: list[Delta] = []
        try:
            for candidate, output in arrived:
                if candidate.job_id in self._running:  # otherwise it has ended meanwhile
                    self._work(candidate, output, deltas)
            if deltas:
                self._take(deltas)
        except RequestFailure as failure:
            self._end_all(failure)
        except Exception:
            log.exception("request %s failed", self._id)
            self._end_all(InternalError(self._id))
        else:
            if self._unfinished == 0:
                self._end_all(None)

    def _work(self, candidate: Candidate, output: EngineOutput | RequestFailure, deltas: list[Delta]) -> None:
        """Work on one candidate's output, and add what it adds to the choices to deltas."""
        if isinstance(output, RequestFailure):
            raise output
        if candidate.text is not None:
            delta = candidate.text.push(output)
            self.usage.completion_tokens += delta.num_tokens
            deltas.append(delta)
            if delta.finish_reason is not None:
                self.finish_reasons[delta.index] = delta.finish_reason
                self._unfinished -= 1
                self._end(candidate.job_id)
            return
        assert candidate.contest is not None
        num_tokens, ended = candidate.contest.receive(candidate.number, output)
        self.usage.completion_tokens += num_tokens
        for number in ended:
            self._end(self._job_id(candidate.prompt_index, number))
        if ended and candidate.contest.is_over:
            self._unfinished -= self.params.n
            deltas += (winners := candidate.contest.winners())
            self.finish_reasons |= {one.index: one.finish_reason for one in winners if one.finish_reason}
        must_pause, continuing = candidate.contest.moves(candidate.number, num_tokens)
        if must_pause:
            self._engine.work.pause(candidate.job_id)
        for number in continuing:
            self._engine.work.unpause(self._job_id(candidate.prompt_index, number))

    def _end(self, job_id: str) -> None:
        """A candidate has ended, whether or not the engine knows."""
        self._running.remove(job_id)
        self._engine.abort(job_id)

    def _end_all(self, failure: RequestFailure | None) -> None:
        self.close()
        if self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)


def _both(first: Take, second: Take, deltas: list[Delta]) -> None:
    first(deltas)
    second(deltas)
