"""The specification of sampling, held to answers worked out by hand on vocabularies of four tokens."""

from __future__ import annotations

from math import e, inf, log

import numpy as np
import numpy.typing as npt
import pytest

from sampling import reference
from sampling.reference import UNWANTED, Logits, Transforms, probabilities


def of(*values: float) -> Logits:
    return np.array(values, np.float64)


PINNED = [746, 89, 950, 811]
LOGITS = of(2.0, -1.0, 0.0, -inf)


def test_bias_adds() -> None:
    """A bias is added to its token's logit; a banned token stays banned."""
    assert reference.logit_bias(LOGITS, {0: -3.0, 1: 1.5, 3: 100.0}).tolist() == [-1.0, 0.5, 0.0, -inf]


def test_allowed_bans_the_others() -> None:
    """What is allowed keeps its logit; a banned token stays banned, and a bias brings none back."""
    assert reference.allowed(LOGITS, [1, 3]).tolist() == [-inf, -1.0, -inf, -inf]
    params = Transforms(allowed_token_ids=[1, 2], logit_bias={0: 100.0})
    assert reference.apply(LOGITS, params, [], []).tolist() == [-inf, -1.0, 0.0, -inf]


def test_bad_words_are_not_completed() -> None:
    """The last token of a word whose others the output ends with; those of a prompt do not count."""
    words = [[0], [1, 2], [0, 1, 3]]
    assert reference.bad_words(LOGITS, words, []).tolist() == [UNWANTED, -1.0, 0.0, -inf]
    assert reference.bad_words(LOGITS, words[1:], [2, 1]).tolist() == [2.0, -1.0, UNWANTED, -inf]
    assert reference.bad_words(of(1, 1, 1, 1), words[1:], [0, 1]).tolist() == [1, 1, UNWANTED, UNWANTED]


def test_a_bad_word_comes_where_nothing_else_may() -> None:
    """What is unwanted is no ban: where all others are banned, by a grammar say, it is drawn, at no
    temperature is it NaN, and otherwise nothing brings it back."""
    last = of(-inf, 3.0, -inf, -inf)
    for params in ({"temperature": 1e-5}, {"repetition_penalty": 2.0}, {"min_p": 0.5}):
        chosen = Transforms(bad_words=[[1]], **params)
        assert probabilities(last, chosen, output=[1]).tolist() == [0.0, 1.0, 0.0, 0.0]
    kept = Transforms(bad_words=[[1]], logit_bias={1: 100.0}, temperature=2.0, repetition_penalty=0.01)
    assert probabilities(of(0.0, 9.0, -inf, -inf), kept, output=[1]).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_repetition_divides_and_multiplies() -> None:
    """A positive logit is divided, a negative one multiplied, 0 and -inf stay, each token once."""
    assert reference.repetition(LOGITS, [0, 0, 1, 2, 3], 2.0).tolist() == [1.0, -2.0, 0.0, -inf]


def test_repetition_below_one() -> None:
    """A penalty below 1 makes what was seen likelier."""
    assert reference.repetition(LOGITS, [0, 1], 0.5).tolist() == [4.0, -0.5, 0.0, -inf]


def test_frequency_counts() -> None:
    """Every occurrence in the output costs the penalty once."""
    assert reference.frequency(LOGITS, [0, 0, 1, 3], 0.5).tolist() == [1.0, -1.5, 0.0, -inf]


def test_presence_does_not_count() -> None:
    """The first occurrence costs the penalty, further ones nothing; a negative penalty is a reward."""
    assert reference.presence(LOGITS, [0, 0, 1], -0.5).tolist() == [2.5, -0.5, 0.0, -inf]


def test_temperature_divides() -> None:
    """Temperature divides every logit."""
    assert reference.temperature(LOGITS, 0.5).tolist() == [4.0, -2.0, 0.0, -inf]


def test_temperature_zero_is_greedy() -> None:
    """At temperature 0 the first of the largest logits stays alone."""
    assert reference.temperature(of(1.0, 3.0, 3.0, 2.0), 0.0).tolist() == [-inf, 0.0, -inf, -inf]


def test_min_p_border_is_kept() -> None:
    """A token exactly min_p times as likely as the likeliest is kept, one below is banned."""
    logits = of(0.0, log(0.5), log(0.5) - 1e-9, -inf)
    assert reference.min_p(logits, 0.5).tolist() == [0.0, log(0.5), -inf, -inf]


def test_min_p_one_keeps_ties() -> None:
    """At min_p 1 the likeliest tokens alone stay, all of them."""
    assert reference.min_p(of(3.0, 1.0, 3.0, 2.9), 1.0).tolist() == [3.0, -inf, 3.0, -inf]


def test_top_k_keeps_k() -> None:
    """Of tokens as likely as the k-th the lower ids stay, and with them no more than k."""
    assert reference.top_k(of(2.0, 3.0, 2.0, 2.0), 2).tolist() == [2.0, 3.0, -inf, -inf]
    assert reference.top_k(of(2.0, 3.0, 3.0, 2.0), 1).tolist() == [-inf, 3.0, -inf, -inf]


def test_top_p_prefers_lower_ids() -> None:
    """Of equally likely tokens at the border the lower ids stay."""
    logits = np.log(of(0.2, 0.4, 0.2, 0.2))
    assert np.isfinite(reference.top_p(logits, 0.55)).tolist() == [True, True, False, False]


@pytest.mark.parametrize("k", [0, 4, 5])
def test_top_k_off(k: int) -> None:
    """0 is off, and so is a k that everything fits in."""
    assert reference.top_k(LOGITS, k).tolist() == LOGITS.tolist()


def test_top_p_keeps_the_smallest_set() -> None:
    """Of 0.5, 0.25, 0.125, 0.125 the first two make 0.7, the first alone 0.5."""
    logits = np.log(of(0.25, 0.5, 0.125, 0.125))
    assert np.isfinite(reference.top_p(logits, 0.7)).tolist() == [True, True, False, False]
    assert np.isfinite(reference.top_p(logits, 0.5)).tolist() == [False, True, False, False]


def test_top_p_keeps_the_likeliest() -> None:
    """However small p is, the likeliest token stays."""
    assert np.isfinite(reference.top_p(of(1.0, 0.0, 0.0, 0.0), 1e-12)).tolist() == [True, False, False, False]


def test_order_bias_before_repetition() -> None:
    """Bias adds before the penalty scales: (2 + 1) / 2, not 2 / 2 + 1."""
    params = Transforms(logit_bias={0: 1.0}, repetition_penalty=2.0)
    assert reference.apply(LOGITS, params, [0], [])[0] == 1.5


def test_min_p_after_temperature() -> None:
    """min_p looks at the distribution that temperature made: 1 / e² is below 0.2, 1 / e is not."""
    kept = {
        t: np.isfinite(reference.apply(of(1.0, 0.0), Transforms(temperature=t, min_p=0.2), [], []))
        for t in (0.5, 1.0)
    }
    assert kept[0.5].tolist() == [True, False]
    assert kept[1.0].tolist() == [True, True]


def test_all_but_one_banned() -> None:
    """With one token left, whatever the parameters, it has the probability 1."""
    params = Transforms(
        repetition_penalty=2.0, presence_penalty=2.0, temperature=2.0, min_p=0.5, top_k=1, top_p=0.1
    )
    assert probabilities(of(-inf, -5.0, -inf, -inf), params, [1], [1]).tolist() == [0.0, 1.0, 0.0, 0.0]


def test_everything_biased_alike() -> None:
    """Every token at -100 changes nothing: equal biases cancel."""
    biased = probabilities(LOGITS, Transforms(logit_bias=dict.fromkeys(range(4), -100.0)))
    np.testing.assert_allclose(biased, probabilities(LOGITS, Transforms()), rtol=1e-12)


@pytest.mark.parametrize("broken", [of(0.0, np.nan), of(0.0, inf), of(-inf, -inf)])
def test_no_distribution(broken: Logits) -> None:
    """NaN, +inf and nothing but -inf are no distribution."""
    with pytest.raises(ValueError, match="no distribution"):
        probabilities(broken, Transforms())


def test_neutral_changes_nothing() -> None:
    """With neutral parameters the logits come out as they went in."""
    assert reference.apply(LOGITS, Transforms(), [0, 1], [2]).tolist() == LOGITS.tolist()


def drawn(distribution: Logits, num_draws: int) -> npt.NDArray[np.int64]:
    """How often each token is drawn: with several seeds, at several positions of each."""
    draws = [reference.draw(distribution, seed, at) for seed in range(100) for at in range(num_draws // 100)]
    return np.bincount(draws, minlength=len(distribution))


def chi_square(observed: npt.NDArray[np.int64], distribution: Logits) -> float:
    expected = observed.sum() * distribution[distribution > 0]
    return float(((observed[distribution > 0] - expected) ** 2 / expected).sum())


def test_draws_follow_the_distribution() -> None:
    """By chi-square, over blocks and within them; a token without probability is never drawn."""
    weights = np.random.default_rng(0).exponential(size=3 * reference.BLOCK - 5)
    weights[::3] = 0.0
    distribution = weights / weights.sum()
    observed = drawn(distribution, 10_000)
    assert not observed[::3].any()
    # 508 degrees of freedom: of 10,000 right forms one would be above it, and the seeds are fixed.
    assert chi_square(observed, distribution) < 635


def test_draws_follow_an_uneven_distribution() -> None:
    """A token that has nearly everything is drawn nearly always, and one of a thousandth a thousandth
    of the times."""
    distribution = of(0.899, 0.001, 0.0, 0.1)
    assert chi_square(drawn(distribution, 10_000), distribution) < 18.4  # as above, 2 degrees


def test_draws_are_pinned() -> None:
    """Which token a seed draws at a position is part of the contract with clients that repeat a seed."""
    distribution = np.full(1000, 0.001)
    assert [reference.draw(distribution, 2**63 - 1, position) for position in range(4)] == PINNED


def test_rounding_moves_few_draws() -> None:
    """Logits that have moved by 1e-3 draw other tokens about once in a thousand times, not in ten."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 4000)
    moved = logits + rng.normal(0, 1e-3, 4000)
    before, after = reference.softmax(logits), reference.softmax(moved)
    differ = sum(reference.draw(before, 5, at) != reference.draw(after, 5, at) for at in range(2000))
    assert differ <= 12


def test_softmax() -> None:
    """exp over the sum, also for logits too large for exp."""
    np.testing.assert_allclose(reference.softmax(of(1000.0, 1001.0)), [1 / (1 + e), e / (1 + e)])
