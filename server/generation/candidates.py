"""The candidates of one request: makes them, derives their seeds, and ends them.

An engine pushes outputs as they come. The outputs of one step, for whichever candidates, are handled together
and passed on as one batch of deltas: no task is woken for a token.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from server.contract.params import GenerationParams, candidate_seed
from server.engine.base import NOBODY, EngineOutput, FinishReason, Job, Requester, Sink
from server.engine.replicas import Replicas
from server.errors import InternalError, RequestFailure
from server.generation.contest import Candidate, Contest, Outcome
from server.generation.outputs import CandidateText, Delta, PromptText, Usage
from server.generation.scores import PromptScores
from server.observe.trail import Trail
from server.text.detokenizer import Detokenizer
from server.text.tokenizer import Tokenizer
from server.weights.adapters import Adapter

log = logging.getLogger(__name__)


Take = Callable[[list[Delta]], None]


class Generation:
    """One request on its way through an engine. Choice index = prompt number × n + rank.

    usage: complete once this is closed. finish_reasons: of the choices that have ended, by index. trails: if
    it is a list when the candidates begin, each candidate's trail is added to it. also: gets each batch of
    deltas, before the `take` of `start`.
    """

    __slots__ = (
        *("also", "finish_reasons", "most_tokens", "num_candidates", "num_choices", "num_prompts"),
        *("params", "trails", "usage"),
        *("_adapter", "_arrived", "_candidates_made", "_ended", "_engine", "_id", "_loop"),
        *("_prompts", "_requester", "_running", "_seed", "_single"),
        *("_take", "_tokenizer", "_unfinished", "_unique"),
    )

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
        self._unique = secrets.token_hex(8)  # a client may use the same x-request-id twice at once
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
        self._single: CandidateText | None = None  # of the only candidate, while it runs

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
        if self._single is not None:
            self.usage.completion_tokens = self._single.num_tokens
            self._single = None
        # Those that take deltas refer to this, too: a circle, which would stay until the garbage collector
        # comes, with prompts and texts. It comes seldom.
        self._take, self.also = list[Delta]().extend, None

    def _candidates(self, prompt_index: int, prompt: PromptText) -> Iterator[tuple[Job, Sink]]:
        """The jobs of one prompt, each with the sink for its outputs."""
        params, tokenizer, first_index = self.params, self._tokenizer, prompt_index * self.params.n
        contest = Contest(first_index, prompt, params, tokenizer) if params.best_of > params.n else None
        is_shared = self._scores_prompt(prompt_index) and params.best_of > 1
        scores = PromptScores() if is_shared else None
        for number in range(params.best_of):
            text = None if contest else CandidateText(first_index + number, prompt, params, tokenizer)
            job = self._job(prompt_index, number)
            candidate = Candidate(job.id, prompt_index, number, text, contest)
            self._candidates_made.append(candidate)
            if self.num_candidates == 1:
                self._single = text
                yield job, self._arrive_single
            else:
                sink = partial(self._arrive, candidate)
                yield job, sink if scores is None else scores.before(sink)

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
        """Handle an output of one of several candidates: together with the others of its step."""
        self._arrived.append((candidate, output))
        if len(self._arrived) == 1:
            self._loop.call_soon(self._advance)

    def _arrive_single(self, output: EngineOutput | RequestFailure) -> None:
        """Handle an output of the only candidate. It waits for no other, and touches as few objects as
        possible: between two steps they leave the processor's cache, and to fetch them costs more than the
        work. A broad except as in _advance."""
        if self._single is None:  # it has ended meanwhile
            return
        try:
            if isinstance(output, RequestFailure):
                raise output
            delta = self._single.push(output)
            if delta.finish_reason is None:
                self._take([delta])
                return
            self._finish(self._job_id(0, 0), delta, delta.finish_reason)
            self._take([delta])
        except Exception as error:  # noqa: BLE001
            self._break(error)
        else:
            self._end_all(None)

    def _advance(self) -> None:
        """Work on the outputs that have arrived. A broad except stands here: a bug of ours ends its request
        and nothing else."""
        arrived, self._arrived = self._arrived, []
        deltas: list[Delta] = []
        try:
            for candidate, output in arrived:
                if candidate.job_id in self._running:  # otherwise it has ended meanwhile
                    self._work(candidate, output, deltas)
            if deltas:
                self._take(deltas)
        except Exception as error:  # noqa: BLE001
            self._break(error)
        else:
            if self._unfinished == 0:
                self._end_all(None)

    def _break(self, error: Exception) -> None:
        """End all with this failure of the request, or bug."""
        if not isinstance(error, RequestFailure):
            log.error("request %s failed", self._id, exc_info=error)
            error = InternalError(self._id)
        self._end_all(error)

    def _work(self, candidate: Candidate, output: EngineOutput | RequestFailure, deltas: list[Delta]) -> None:
        """Work on one candidate's output, and add what it adds to the choices to deltas."""
        if isinstance(output, RequestFailure):
            raise output
        if candidate.text is not None:
            delta = candidate.text.push(output)
            self.usage.completion_tokens += delta.num_tokens
            deltas.append(delta)
            if delta.finish_reason is not None:
                self._finish(candidate.job_id, delta, delta.finish_reason)
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

    def _finish(self, job_id: str, last: Delta, reason: FinishReason) -> None:
        """A choice has had its last delta."""
        self.finish_reasons[last.index] = reason
        self._unfinished -= 1
        self._end(job_id)

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
