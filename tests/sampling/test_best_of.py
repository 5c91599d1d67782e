"""The ranking of candidates, and the bound by which one is given up, against the full ranking."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling import best_of as module
from sampling.best_of import AFTER, Pauses, Ranking, best_mean, mean_logprob

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


def means_of(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_worse_half_pauses_once() -> None:
    """Each is compared when it has AFTER tokens with all that have not ended. An equal one is not better."""
    pauses = Pauses(1, 4, 128)
    assert not pauses.pauses(3, 30, 31, lambda: means_of(-1, -2, -3, -4))
    assert not pauses.pauses(1, 31, 32, lambda: means_of(-1, -2, -2, -4))
    assert not pauses.pauses(2, 31, 32, lambda: means_of(-1, -2, -2, -4))
    assert pauses.pauses(3, 31, 33, lambda: means_of(-1, -2, -2, -4))
    assert not pauses.pauses(3, 33, 34, lambda: means_of(-1, -2, -2, -4))
    assert pauses.pauses(0, 31, 32, lambda: means_of(-9, -2, -2, -4))
    assert not pauses.pauses(1, 31, 32, lambda: means_of(-9, -10, -2, -4))  # then two are left
    assert pauses.continuing(32 + 47, is_full=False) == []
    assert pauses.continuing(32 + 48, is_full=False) == [3, 0]
    assert (pauses.is_over, pauses.continuing(99, is_full=True)) == (True, [])
    assert not pauses.pauses(2, 31, 32, lambda: means_of(-1, -2, -9, -4))


def test_paused_ones_continue_when_enough_have_finished() -> None:
    """That is when their means decide which of the others can still win."""
    pauses = Pauses(2, 4, 128)
    assert pauses.pauses(3, 31, 32, lambda: means_of(-1, -2, -3, -4))
    assert pauses.continuing(33, is_full=False) == []
    assert pauses.continuing(0, is_full=True) == [3]


@pytest.mark.parametrize(
    ("n", "best_of", "num_paused"), [(1, 2, 1), (2, 3, 1), (1, 5, 2), (3, 4, 1), (4, 8, 4)]
)
def test_at_least_n_never_pause(n: int, best_of: int, num_paused: int) -> None:
    """And at least half of them, even if each seems worse than the others when it is compared."""
    pauses = Pauses(n, best_of, 128)
    paused = [
        pauses.pauses(
            number, 0, AFTER, lambda number=number: dict.fromkeys(range(best_of), -1.0) | {number: -2.0}
        )
        for number in range(best_of)
    ]
    assert sum(paused) == num_paused


def test_one_of_one_does_not_pause() -> None:
    """There is nobody to wait for."""
    assert Pauses(1, 1, 128).is_over


@pytest.mark.parametrize("in_step", [False, True])
def test_pausing_changes_no_winner(in_step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 sets of candidates, in random orders or all in step: the same winners; nobody waits
    for ever."""
    monkeypatch.setattr(module, "AFTER", 4)
    random = Random(12)
    for _ in range(5000):
        best_of, max_tokens = random.randint(2, 8), random.randint(1, 19)
        n = random.randint(1, best_of - 1)
        values = (0.0, -0.125, -0.5, -1.0, -4.0)
        candidates = [random.choices(values, k=random.randint(1, max_tokens)) for _ in range(best_of)]
        pauses = Pauses(n, best_of, max_tokens)
        winners, _ = race(candidates, n, max_tokens, None if in_step else random, pauses)
        assert winners == full_ranking(candidates, n)


def test_pausing_saves_tokens() -> None:
    """In step, with candidates of which some are better from the beginning: fewer than giving up alone."""
    random, with_pauses, without = Random(13), 0, 0
    for _ in range(50):
        candidates = [
            [-random.expovariate(1) * scale for _ in range(96)]
            for scale in random.choices((1, 1.2, 1.5), k=8)
        ]
        with_pauses += race(candidates, 1, 96, None, Pauses(1, 8, 96))[1]
        without += race(candidates, 1, 96, None)[1]
    assert with_pauses < 0.95 * without


def race(
    candidates: list[list[float]],
    n: int,
    max_tokens: int,
    random: Random | None,
    pauses: Pauses | None = None,
) -> tuple[list[int], int]:
    """The winners and the tokens generated when hopeless candidates are given up. One at random is next, or
    each in turn."""
    ranking, running = Ranking(n), dict.fromkeys(range(len(candidates)), 0)
    sums, num_tokens = [0.0] * len(candidates), 0
    paused, latest = set[int](), [-1] * len(candidates)
    while running:
        free = [number for number in running if number not in paused]
        number = random.choice(free) if random is not None else min(free, key=latest.__getitem__)
        latest[number] = num_tokens
        sums[number] += candidates[number][running[number]]
        running[number] += 1
        num_tokens += 1
        if running[number] == len(candidates[number]):
            ranking.finish(number, mean_logprob(sums[number], running.pop(number)))
        for other in list(running):
            if ranking.excludes(other, best_mean(sums[other], max_tokens)):
                del running[other]
        if pauses is not None:
            now = running.get(number, 0)
            paused.difference_update(pauses.continuing(now, is_full=ranking.is_full))
            means = {one: mean_logprob(sums[one], running[one]) for one in running if running[one]}
            if pauses.pauses(number, now - 1, now, lambda means=means: means):
                paused.add(number)
    return ranking.winners, num_tokens
