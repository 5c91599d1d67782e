"""The candidates of one prompt if best_of > n.

Until the best are known, they are token ids and sums; only the winners become text.

A candidate that can no longer win is given up, and one that looks worse than others may wait until more is
known of those. Both only save time (sampling/best_of.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from msgspec.structs import replace

from sampling.best_of import Pauses, Ranking, best_mean, mean_logprob
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, FinishReason, TopLogprobs
from server.generation.outputs import CandidateText, Delta, PromptText
from server.text.tokenizer import Tokenizer


class Outcome(NamedTuple):
    """The outcome of a candidate. num_tokens: generated, as the usage counts them. finish: None: it has not
    ended. choice: the index of the choice that it became. mean: of its tokens' log-probabilities; None: there
    are no tokens, or candidates are not ranked."""

    num_tokens: int
    finish: FinishReason | Literal["given_up"] | None = None
    choice: int | None = None
    mean: float | None = None


@dataclass(slots=True)
class Contestant:
    """A candidate of a contest. scanner: finds an end that the engine does not know, such as a stop sequence,
    in the text; None: there is no such end.

    finish_reason: the engine's; None if a stop sequence ended it first.
    """

    scanner: CandidateText | None
    token_ids: list[int] = field(default_factory=list)
    logprob_sum: float = 0.0
    logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    finish_reason: FinishReason | None = None

    def take(self, output: EngineOutput, *, keep_logprobs: bool) -> tuple[int, bool]:
        """Take an engine's output. Returns how many of its tokens belong to the candidate, and whether it
        ends with them."""
        num_tokens, ends = len(output.token_ids), output.finish_reason is not None
        if self.scanner is not None:
            delta = self.scanner.push(output)
            num_tokens, ends = delta.num_tokens, delta.finish_reason is not None
        if num_tokens == len(output.token_ids):
            self.finish_reason = output.finish_reason
        self.token_ids += output.token_ids[:num_tokens]
        if output.logprobs is not None:
            # One by one, so that the sum does not depend on how they come
            for value in output.logprobs.sampled[:num_tokens]:
                self.logprob_sum += value
            if keep_logprobs:
                self.logprobs = self.logprobs or TopLogprobs(output.logprobs.width)
                self.logprobs.extend(output.logprobs, num_tokens)
        self.prompt_logprobs = self.prompt_logprobs or output.prompt_logprobs
        return num_tokens, ends

    def outcome(self, finish: FinishReason | Literal["given_up"] | None) -> Outcome:
        num_tokens = len(self.token_ids)
        mean = mean_logprob(self.logprob_sum, num_tokens) if num_tokens else None
        return Outcome(num_tokens, finish, mean=mean)


class Contest:
    """best_of candidates, of which n win. first_index: the index of the first choice that
    a winner becomes."""

    def __init__(
        self, first_index: int, prompt: PromptText, params: GenerationParams, tokenizer: Tokenizer
    ) -> None:
        self._first_index = first_index
        self._prompt = prompt
        self._params = params
        self._tokenizer = tokenizer
        self._ranking = Ranking(params.n)
        is_paused = params.give_up and params.pause
        self._pauses = Pauses(params.n, params.best_of, params.max_tokens) if is_paused else None
        self._finished: dict[int, Contestant] = {}  # the leading ones
        self._outcomes: dict[int, Outcome] = {}  # of the candidates that have ended
        self._running = {number: Contestant(self._scanner()) for number in range(params.best_of)}

    @property
    def is_over(self) -> bool:
        return not self._running

    def receive(self, number: int, output: EngineOutput) -> tuple[int, list[int]]:
        """Take an engine's output for a running candidate.

        Returns how many of its tokens count, and the numbers of the candidates that end with it: this one if
        it has finished, and those that can no longer win.
        """
        candidate = self._running[number]
        num_tokens, ends = candidate.take(output, keep_logprobs=self._params.num_logprobs is not None)
        if ends:
            del self._running[number]
            self._finish(number, candidate)
            hopeless = list(filter(self._is_hopeless, self._running))
        else:
            hopeless = [number] if self._is_hopeless(number) else []
        for loser in hopeless:
            self._outcomes[loser] = self._running.pop(loser).outcome("given_up")
        return num_tokens, [number, *hopeless] if ends else hopeless

    def moves(self, number: int, num_tokens: int) -> tuple[bool, list[int]]:
        """To be asked after each output of a candidate, with how many of its tokens counted.

        Returns whether it must pause now, and the numbers of the paused ones that continue now. One that was
        paused may still get an output that was on its way, which counts.
        """
        if self._pauses is None or self._pauses.is_over:
            return False, []
        now = len(self._running[number].token_ids) if number in self._running else 0
        continuing = self._pauses.continuing(now, is_full=self._ranking.is_full)
        return self._pauses.pauses(number, now - num_tokens, now, self._means), continuing

    def outcome(self, number: int) -> Outcome:
        """The outcome of one candidate so far."""
        if (running := self._running.get(number)) is not None:
            return running.outcome(None)
        outcome, winners = self._outcomes[number], self._ranking.winners
        if self._running or number not in winners:
            return outcome
        return outcome._replace(choice=self._first_index + winners.index(number))

    def winners(self) -> list[Delta]:
        """The whole choices, best first. Call it once, when the contest is over."""
        return [
            self._text(self._first_index + place, self._finished[number])
            for place, number in enumerate(self._ranking.winners)
        ]

    def _finish(self, number: int, candidate: Contestant) -> None:
        self._finished[number] = candidate
        self._outcomes[number] = candidate.outcome(candidate.finish_reason or "stop")
        loser = self._ranking.finish(number, mean_logprob(candidate.logprob_sum, len(candidate.token_ids)))
        if loser is not None:
            del self._finished[loser]

    def _means(self) -> dict[int, float]:
        means = {number: one.outcome(None).mean for number, one in self._running.items()}
        return {number: mean for number, mean in means.items() if mean is not None}

    def _is_hopeless(self, number: int) -> bool:
        params = self._params
        if not params.give_up or params.max_tokens == 0:
            return False
        return self._ranking.excludes(number, best_mean(self._running[number].logprob_sum, params.max_tokens))

    def _scanner(self) -> CandidateText | None:
        if not self._params.stop:
            return None
        silent = replace(self._params, echo=False, num_logprobs=None, return_token_ids=False)
        return CandidateText(0, self._prompt, silent, self._tokenizer)

    def _text(self, index: int, winner: Contestant) -> Delta:
        whole = EngineOutput(winner.token_ids, winner.logprobs, winner.prompt_logprobs, winner.finish_reason)
        return CandidateText(index, self._prompt, self._params, self._tokenizer).push(whole)


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
