"""best_of within one prompt: what the candidates keep, when one ends, what the winners become."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sampling import best_of
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, FinishReason, TopLogprobs
from server.generation.contest import Contest, Outcome
from server.generation.outputs import CandidateText, Delta, PromptText
from server.text.tokenizer import Tokenizer

PARAMS = GenerationParams(max_tokens=10, n=1, best_of=3)
PROMPT = PromptText([5, 6], "$%", [0, 1])
A, B, C = 66, 67, 68  # a, b, c


def contest(tokenizer: Tokenizer, params: GenerationParams = PARAMS) -> Contest:
    return Contest(0, PROMPT, params, tokenizer)


def said(*letters: int, logprob: float = -1.0, end: FinishReason | None = None) -> EngineOutput:
    """Letters that have this log-probability each."""
    return EngineOutput(list(letters), TopLogprobs(1, list(letters), [logprob] * len(letters)), None, end)


def test_hopeless_when_another_finishes(bytes_tokenizer: Tokenizer) -> None:
    """A candidate whose sum, over the largest length, is below the best mean ends when that is known."""
    match = contest(bytes_tokenizer)
    assert match.receive(0, said(A, A, logprob=-6.0)) == (2, [])  # at best -12 / 10
    assert match.receive(1, said(B, logprob=-1.25)) == (1, [])
    assert match.receive(2, said(C, logprob=-1.0, end="stop")) == (1, [2, 0])
    assert match.receive(1, said(B, logprob=-9.0)) == (1, [1])
    assert match.is_over
    assert match.winners() == [Delta(0, "c", None, "stop", 1)]


def test_hopeless_with_its_next_token(bytes_tokenizer: Tokenizer) -> None:
    """A candidate that falls behind those that have finished ends with the token that shows it."""
    match = contest(bytes_tokenizer)
    match.receive(2, said(C, logprob=-1.0, end="length"))
    assert match.receive(0, said(A, logprob=-9.9)) == (1, [])
    assert match.receive(0, said(A, logprob=-0.2)) == (1, [0])


def test_ties_are_not_given_up(bytes_tokenizer: Tokenizer) -> None:
    """One that can still tie goes on if it has the lower number, which wins ties, and else ends."""
    match = contest(bytes_tokenizer)
    assert match.receive(0, said(A, logprob=-10.0)) == (1, [])
    assert match.receive(2, said(C, logprob=-10.0)) == (1, [])
    assert match.receive(1, said(B, logprob=-1.0, end="length")) == (1, [1, 2])


def test_outcomes(bytes_tokenizer: Tokenizer) -> None:
    """What has become of each: its tokens, how it ended, its mean, and the choice that it is in the end."""
    match = contest(bytes_tokenizer)
    match.receive(0, said(A, A, logprob=-6.0))
    assert match.outcome(0) == Outcome(2, None, None, -6.0)
    assert match.outcome(1) == Outcome(0)
    match.receive(2, said(C, logprob=-1.0, end="stop"))
    assert match.outcome(0) == Outcome(2, "given_up", None, -6.0)
    assert match.outcome(2) == Outcome(1, "stop", None, -1.0)
    match.receive(1, said(B, logprob=-0.5, end="length"))
    assert [match.outcome(number).choice for number in range(3)] == [None, 0, None]


def test_off(bytes_tokenizer: Tokenizer) -> None:
    """With give_up off every candidate goes on to its end."""
    match = contest(bytes_tokenizer, replace(PARAMS, give_up=False))
    assert match.receive(0, said(A, logprob=-99.0)) == (1, [])
    assert match.receive(1, said(B, logprob=-0.1, end="length")) == (1, [1])
    assert match.receive(0, said(A, logprob=-99.0)) == (1, [])


def test_the_worse_one_pauses(bytes_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AFTER tokens, if it is worse than half of those that have begun; until enough have finished. What
    had been on its way to it counts."""
    monkeypatch.setattr(best_of, "AFTER", 2)
    match = contest(bytes_tokenizer, replace(PARAMS, pause=True))

    def step(number: int, output: EngineOutput) -> tuple[bool, list[int]]:
        num_tokens, _ = match.receive(number, output)
        return match.moves(number, num_tokens)

    assert step(0, said(A, A, logprob=-2.0)) == (False, [])  # nobody else has begun
    assert step(1, said(B, logprob=-2.5)) == (False, [])
    assert step(2, said(C, logprob=-1.0)) == (False, [])
    assert step(1, said(B, logprob=-2.5)) == (True, [])
    assert step(1, said(B, logprob=-2.5)) == (False, [])
    assert match.outcome(1) == Outcome(3, None, None, -2.5)
    assert step(2, said(C, logprob=-1.0)) == (False, [])
    assert step(2, said(C, logprob=-1.0, end="stop")) == (False, [1])
    assert step(0, said(A, logprob=-1.0, end="stop")) == (False, [])


@pytest.mark.parametrize("off", [{"give_up": False}, {"pause": False}])
def test_nobody_pauses(
    bytes_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, off: dict[str, bool]
) -> None:
    """Nor if nobody is given up, because nothing is then saved."""
    monkeypatch.setattr(best_of, "AFTER", 1)
    match = contest(bytes_tokenizer, replace(replace(PARAMS, pause=True), **off))
    match.receive(0, said(A))
    match.receive(2, said(A))
    assert match.receive(1, said(B, logprob=-2.0)) == (1, [])
    assert match.moves(1, 1) == (False, [])


@pytest.mark.parametrize("num_logprobs", [None, 0])
def test_losers_have_no_text(
    bytes_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, num_logprobs: int | None
) -> None:
    """Without stop sequences only the winners' tokens become text."""
    texts: list[int] = []
    push = CandidateText.push

    def spy(self: CandidateText, output: EngineOutput) -> Delta:
        texts.append(output.token_ids[0])
        return push(self, output)

    monkeypatch.setattr(CandidateText, "push", spy)
    match = contest(bytes_tokenizer, replace(PARAMS, num_logprobs=num_logprobs))
    for number, letter in enumerate((A, B, C)):
        match.receive(number, said(letter, logprob=-3.0 + number))
        match.receive(number, said(letter, logprob=-3.0 + number, end="length"))
    assert [delta.text for delta in match.winners()] == ["cc"]
    assert texts == [C]


def test_stop_sequence_ends_a_candidate(bytes_tokenizer: Tokenizer) -> None:
    """Tokens after a stop sequence do not count; the winner's text is the one it would have alone."""
    match = contest(bytes_tokenizer, replace(PARAMS, stop=("ab",), include_stop=False, best_of=2))
    assert match.receive(0, said(C, A)) == (2, [])
    assert match.receive(0, said(B, C, C, logprob=-1.0, end="stop")) == (1, [0])
    assert match.receive(1, said(A, logprob=-5.0, end="stop")) == (1, [1])
    assert match.winners() == [Delta(0, "c", None, "stop", 3)]


def test_nothing_to_generate(bytes_tokenizer: Tokenizer) -> None:
    """With max_tokens 0 all candidates tie."""
    params = replace(PARAMS, max_tokens=0, echo=True, num_logprobs=0, n=2)
    match = contest(bytes_tokenizer, params)
    scored = EngineOutput([], None, TopLogprobs(1, [6], [-2.0]), "length")
    ends = [match.receive(number, scored) for number in range(3)]
    assert ends == [(0, [0]), (0, [1]), (0, [2])]
    first, second = match.winners()
    assert (first.text, first.num_tokens, first.finish_reason) == ("$%", 0, "length")
    assert first.logprobs is not None
    assert first.logprobs.arrays()["token_logprobs"] == [None, -2.0]
    assert (second.index, second.text) == (1, "$%")


@given(
    words=st.lists(st.text("abcdé", min_size=1, max_size=8), min_size=2, max_size=5),
    order=st.randoms(),
    params=st.builds(
        replace,
        st.just(PARAMS),
        n=st.integers(1, 4),
        num_logprobs=st.sampled_from([None, 0]),
        stop=st.sampled_from([(), ("ab",), ("cd", "é")]),
        include_stop=st.booleans(),
        echo=st.booleans(),
        pause=st.booleans(),
    ),
)
def test_same_choices_as_without(
    bytes_tokenizer: Tokenizer, words: list[str], order: itertools.chain[int], params: GenerationParams
) -> None:
    """Giving up and pausing or not, token by token in any order or each candidate at once: it
    changes no choice."""
    params = replace(params, n=min(params.n, len(words) - 1), best_of=len(words))
    outputs = {k: list(told(bytes_tokenizer.encode(word), params)) for k, word in enumerate(words)}
    at_once = {k: [joined(parts)] for k, parts in outputs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_of, "AFTER", 2)
        wanted = run(contest(bytes_tokenizer, replace(params, give_up=False)), at_once, order)
        assert run(contest(bytes_tokenizer, params), outputs, order) == wanted


def told(ids: list[int], params: GenerationParams) -> list[EngineOutput]:
    """One token each; its log-probability is a function of it."""
    parts = [EngineOutput([i], TopLogprobs(1, [i], [-0.1 * (i % 7)])) for i in ids[: params.max_tokens]]
    parts[-1].finish_reason = "length"
    if params.echo and params.num_logprobs is not None:
        parts[0].prompt_logprobs = TopLogprobs(1, [6], [-2.0])
    return parts


def joined(parts: list[EngineOutput]) -> EngineOutput:
    whole = EngineOutput([], TopLogprobs(1), parts[0].prompt_logprobs, parts[-1].finish_reason)
    for part in parts:
        assert part.logprobs is not None and whole.logprobs is not None  # noqa: PT018
        whole.token_ids += part.token_ids
        whole.logprobs.extend(part.logprobs)
    return whole


def run(match: Contest, outputs: dict[int, list[EngineOutput]], order: itertools.chain[int]) -> list[Delta]:
    left, paused = {number: list(parts) for number, parts in outputs.items()}, set[int]()
    while not match.is_over:
        number = order.choice([one for one in left if one not in paused])  # type: ignore[attr-defined]
        num_tokens, all_ended = match.receive(number, left[number].pop(0))
        for ended in all_ended:
            del left[ended]
        pauses, continuing = match.moves(number, num_tokens)
        paused.difference_update(continuing)
        if pauses:
            paused.add(number)
    return match.winners()
