"""Several choices of one prompt: n, best_of and seeds."""

from __future__ import annotations

from typing import Any

from conform.subject.ends import require, shown
from conform.subject.rule import rule
from conform.subject.server import Subject

IDS = [300, 400, 500]
NO_BEST_OF = {"vllm": "there is no best_of any more, and the field is ignored"}
WARM: dict[str, Any] = {"prompt": IDS, "temperature": 1, "max_tokens": 8}


def _texts(choices: list[dict[str, Any]]) -> list[str]:
    return [choice["text"] for choice in choices]


@rule("choices.n-differ", requests=1, tokens=50)
def n_differ(subject: Subject) -> None:
    """`n` returns that many different choices, and the prompt counts once."""
    reply = subject.complete(**WARM, n=4, seed=1)
    choices = reply["choices"]
    require([choice["index"] for choice in choices] == [0, 1, 2, 3], f"indexes of {shown(choices)}")
    require(len(set(_texts(choices))) > 1, f"all are {shown(choices[0]['text'])}")
    count = reply["usage"]["prompt_tokens"]
    require(count == len(IDS), f"prompt_tokens is {count} for {len(IDS)} ids")


@rule("choices.greedy-are-equal", requests=1, tokens=30, differs={"vllm": "n is 1 at temperature 0"})
def greedy_are_equal(subject: Subject) -> None:
    """`n` above 1 at temperature 0 is legal, and returns equal texts."""
    texts = _texts(subject.choices(**WARM | {"temperature": 0}, n=3))
    require(len(texts) == 3, f"{len(texts)} choices of 3")
    require(len(set(texts)) == 1, f"they differ: {shown(texts)}")


@rule("choices.by-prompt-and-rank", requests=3, tokens=60)
def by_prompt_and_rank(subject: Subject) -> None:
    """A choice's index is its prompt's number × n + its rank."""
    prompts = [[300, 400], [500]]
    choices = subject.choices(prompt=prompts, n=2, echo=True, temperature=1, max_tokens=4, seed=1)
    require([choice["index"] for choice in choices] == [0, 1, 2, 3], f"indexes of {shown(choices)}")
    one, other = (subject.choice(prompt=ids, echo=True, max_tokens=0)["text"] for ids in prompts)
    for choice, start in zip(choices, (one, one, other, other), strict=True):
        require(choice["text"].startswith(start), f"{shown(choice['text'])} does not begin as {shown(start)}")


@rule("choices.best-of-returns-the-likeliest", requests=2, tokens=120, differs=NO_BEST_OF)
def best_of_returns_the_likeliest(subject: Subject) -> None:
    """`best_of` returns the candidates with the highest mean log-probability."""
    subject.need_logprobs()
    asked: dict[str, Any] = WARM | {"seed": 5, "logprobs": 0, "max_tokens": 6, "ignore_eos": True}
    every, best = subject.choices(n=8, **asked), subject.complete(n=2, best_of=8, **asked)
    ranked = sorted(every, key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    require(
        _texts(best["choices"]) == _texts(ranked[:2]),
        f"{shown(_texts(best['choices']))} of {shown(_texts(ranked))}",
    )
    count = best["usage"]["completion_tokens"]
    require(2 * 6 < count <= 8 * 6, f"completion_tokens is {count} for 8 candidates of 6 tokens")


@rule("choices.best-of-within-each-prompt", requests=1, tokens=40, differs=NO_BEST_OF)
def best_of_within_each_prompt(subject: Subject) -> None:
    """Candidates are ranked within their prompt, best first."""
    subject.need_logprobs()
    asked: dict[str, Any] = {"prompt": [[300, 400], [500]], "temperature": 1.5, "max_tokens": 4}
    choices = subject.choices(**asked, n=2, best_of=4, logprobs=0, seed=3, ignore_eos=True)
    means = [sum(choice["logprobs"]["token_logprobs"]) for choice in choices]
    require([choice["index"] for choice in choices] == [0, 1, 2, 3], f"indexes of {shown(choices)}")
    require(means[0] >= means[1] and means[2] >= means[3], f"sums of log-probabilities: {means}")


@rule("choices.best-of-shows-no-logprobs", requests=1, tokens=20, differs=NO_BEST_OF)
def best_of_shows_no_logprobs(subject: Subject) -> None:
    """`best_of` adds no log-probabilities that were not requested."""
    reply = subject.complete(**WARM | {"max_tokens": 4}, best_of=3, ignore_eos=True)
    require(len(reply["choices"]) == 1, f"{len(reply['choices'])} choices")
    require(reply["choices"][0]["logprobs"] is None, f"logprobs: {shown(reply['choices'][0]['logprobs'])}")
    count = reply["usage"]["completion_tokens"]
    require(4 < count <= 12, f"completion_tokens is {count} for 3 candidates of 4 tokens")


@rule(
    "choices.candidates",
    requests=2,
    tokens=120,
    differs={"openai": "there is no such field", "vllm": "there is no such field"},
)
def candidates(subject: Subject) -> None:
    """With `return_candidates` the reply tells of every candidate of `best_of`."""
    asked: dict[str, Any] = WARM | {"prompt": [[300, 400], [500]], "seed": 5, "return_candidates": True}
    reply = subject.complete(**asked, n=2, best_of=4)
    require("candidates" in reply, f"the reply has the keys {sorted(reply)}")
    told = reply["candidates"]
    places = [(one["prompt_index"], one["number"]) for one in told]
    require(places == [(prompt, k) for prompt in range(2) for k in range(4)], f"candidates {places}")
    count, used = sum(one["completion_tokens"] for one in told), reply["usage"]["completion_tokens"]
    require(count == used, f"they have {count} tokens, and completion_tokens is {used}")
    chosen = {one["choice"]: one for one in told if one["choice"] is not None}
    require(sorted(chosen) == [0, 1, 2, 3], f"choices {sorted(chosen)} are among them")
    for choice in reply["choices"]:
        reason = chosen[choice["index"]]["finish_reason"]
        require(reason == choice["finish_reason"], f"choice {choice['index']} ends with {reason} there")
    for one in told:
        best = chosen[2 * one["prompt_index"]]["mean_logprob"]
        require(one["mean_logprob"] <= best, f"{shown(one)} is better than the best, {best}")
        is_given_up = one["finish_reason"] is None
        after = one["completion_tokens"] if is_given_up else None
        require(one["given_up_after"] == after, f"given_up_after of {shown(one)}")
    plain = subject.complete(**WARM, n=2, return_candidates=True)
    require("candidates" not in plain, "there are candidates where all are choices")


@rule("choices.seed-repeats", requests=2, tokens=50)
def seed_repeats(subject: Subject) -> None:
    """The same seed and parameters give the same texts."""
    first, second = (_texts(subject.choices(**WARM, n=2, seed=42)) for _ in range(2))
    require(first == second, f"{shown(first)}, then {shown(second)}")


@rule("choices.seeds-differ", requests=2, tokens=50)
def seeds_differ(subject: Subject) -> None:
    """Another seed gives other texts."""
    first, second = (_texts(subject.choices(**WARM, n=2, seed=seed)) for seed in (42, 44))
    require(first != second, f"42 and 44 both give {shown(first)}")


@rule("choices.no-seed-no-repetition", requests=2, tokens=50)
def no_seed_no_repetition(subject: Subject) -> None:
    """Two requests without a seed get different texts."""
    first, second = (_texts(subject.choices(**WARM, n=2)) for _ in range(2))
    require(first != second, f"twice {shown(first)}")


@rule("choices.seeds-of-candidates", requests=5, tokens=180, differs={"vllm": "candidate i has the seed + i"})
def seeds_of_candidates(subject: Subject) -> None:
    """Candidates of neighbouring seeds, and of equal prompts in one request, differ."""
    every = [subject.choices(**WARM, n=4, seed=seed) for seed in (42, 43, 44, -42)]
    every.append(subject.choices(**WARM | {"prompt": [IDS, IDS]}, seed=42))
    texts = [text for choices in every for text in _texts(choices)]
    # The first prompt's candidate of the last request equals the very first one.
    require(len(set(texts)) == len(texts) - 1, f"{len(set(texts))} of {len(texts) - 1} differ")
