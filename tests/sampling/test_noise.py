"""The numbers of a draw: which they are, and how they are distributed."""

from __future__ import annotations

import numpy as np

from sampling import noise
from sampling.noise import Bits


def bits(*values: int) -> Bits:
    return np.array(values, np.uint64)


def test_the_mixer_is_splitmix64s() -> None:
    """The first outputs of SplitMix64 from the seed 1234567, as its authors' program prints them."""
    states = bits(1234567) + bits(1, 2, 3) * np.uint64(noise.GAMMA)
    assert noise.mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_differ() -> None:
    """No two of many seeds and positions share a key, neighbours and the largest included."""
    seeds = np.concatenate([np.arange(1000, dtype=np.uint64), bits(2**62, 2**63, 2**64 - 1)])
    keys = noise.key(seeds[:, None], np.arange(500, dtype=np.uint64))
    assert len(np.unique(keys)) == keys.size


def test_the_distribution_is_exponential() -> None:
    """Over keys and over numbers, the shares of ten equally likely ranges pass the chi-square test."""
    limits = [*-np.log(1 - np.arange(10) / 10), np.inf]
    for keys, numbers in ((100_000, 1), (1, 100_000)):
        drawn = noise.exponential(
            noise.key(bits(7), np.arange(keys, dtype=np.uint64))[:, None],
            np.arange(numbers, dtype=np.uint64),
        )
        observed, _ = np.histogram(drawn, limits)
        expected = drawn.size / 10
        # 9 degrees of freedom: of 10,000 right forms one would be above it, and the keys are fixed.
        assert ((observed - expected) ** 2 / expected).sum() < 33.7


def test_no_number_is_zero_or_infinite() -> None:
    """The smallest and the largest fraction make numbers that one can divide by."""
    fractions = np.array([0, 2**noise.FRACTION_BITS - 1])
    numbers = -np.log((fractions + 0.5) * 2.0**-noise.FRACTION_BITS)
    assert 0 < numbers[1] < 2e-16 < 36 < numbers[0] < 37


def test_neighbours_know_nothing_of_each_other() -> None:
    """Numbers of neighbouring tokens, positions and seeds are not correlated, nor a token's and a block's."""
    at = np.arange(20_000, dtype=np.uint64)
    one = noise.exponential(noise.key(bits(7), at), bits(3))
    for other in (
        noise.exponential(noise.key(bits(7), at), bits(4)),
        noise.exponential(noise.key(bits(7), at), bits(3 + noise.FIRST_BLOCK)),
        noise.exponential(noise.key(bits(7), at + np.uint64(1)), bits(3)),
        noise.exponential(noise.key(bits(8), at), bits(3)),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03  # 4 standard deviations
