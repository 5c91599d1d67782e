"""The ranking of candidates, and the bound by which one is given up, against the full ranking."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sampling.best_of import Ranking, best_mean, mean_logprob

logprobs = st.lists(st.floats(-1e9, 0), min_size=1, max_size=12)


def full_ranking(candidates: list[list[float]], n: int) -> list[int]:
    """The rule of the contract, word for word: by mean, best first, ties by number."""
    means = [sum(values) / len(values) for values in candidates]
    return sorted(range(len(means)), key=lambda number: (-means[number], number))[:n]


def test_mean() -> None:
    """The mean is per token; no token is no reproach."""
    assert (mean_logprob(-6.0, 3), mean_logprob(0.0, 0)) == (-2.0, 0.0)


@given(logprobs, st.integers(0, 12))
def test_no_mean_is_above_the_bound(values: list[float], more: int) -> None:
    """At each moment of a candidate's life the bound is at least its final mean, to the last bit."""
    max_tokens, total, bounds = len(values) + more, 0.0, []
    for value in values:
        total += value
        bounds.append(best_mean(total, max_tokens))
    assert min(bounds) >= mean_logprob(total, len(values))


@given(st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0]), min_size=1), st.integers(1, 5), st.randoms())
def test_ranking(means: list[float], n: int, random: Random) -> None:
    """In whatever order candidates finish, the n best win, ties by number; everyone else is told once."""
    order = list(range(len(means)))
    random.shuffle(order)
    ranking = Ranking(n)
    losers = [ranking.finish(number, means[number]) for number in order]
    assert ranking.winners == full_ranking([[mean] for mean in means], n)
    assert sorted(loser for loser in losers if loser is not None) == sorted(set(order) - set(ranking.winners))


def test_giving_up_changes_no_winner() -> None:
    """Of 5,000 sets of candidates, in random orders, with ties: the same winners in the same order; and one
    token in twenty at least is never generated."""
    random = Random(11)
    generated = in_all = 0
    for _ in range(5000):
        best_of, max_tokens = random.randint(2, 8), random.randint(1, 19)
        n = random.randint(1, best_of - 1)
        values = (0.0, -0.125, -0.5, -1.0, -4.0)  # few, so that means tie
        candidates = [random.choices(values, k=random.randint(1, max_tokens)) for _ in range(best_of)]
        in_all += sum(map(len, candidates))
        winners, num_tokens = race(candidates, n, max_tokens, random)
        generated += num_tokens
        assert winners == full_ranking(candidates, n)
    assert generated < 0.95 * in_all


def race(candidates: list[list[float]], n: int, max_tokens: int, random: Random) -> tuple[list[int], int]:
    """The winners and the tokens generated when hopeless candidates are given up; one at random goes on."""
    ranking, running = Ranking(n), dict.fromkeys(range(len(candidates)), 0)
    sums, num_tokens = [0.0] * len(candidates), 0
    while running:
        number = random.choice(list(running))
        sums[number] += candidates[number][running[number]]
        running[number] += 1
        num_tokens += 1
        if running[number] == len(candidates[number]):
            ranking.finish(number, mean_logprob(sums[number], running.pop(number)))
        for other in list(running):
            if ranking.excludes(other, best_mean(sums[other], max_tokens)):
                del running[other]
    return ranking.winners, num_tokens
