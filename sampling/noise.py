"""The random numbers of a draw: a function of the request's seed, the token's position and a number.

There is no state. So a draw is the same whatever else is in the batch, on either runner, and after a
resumption. All arithmetic is that of unsigned 64-bit integers, which wraps around. The mixer is the output
function of SplitMix64 (Steele, Lea, Flood 2014), whose counter begins at the key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
# Numbers below this are token ids, from it on they are blocks of them.
FIRST_BLOCK = 2**32
# Bits of a number that become a fraction. With one more, the largest fraction would round to 1.
FRACTION_BITS = 52


def mix(bits: Bits) -> Bits:
    """Mix bits: every bit of the result depends on every bit given."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(multiplier)
    return bits ^ (bits >> np.uint64(SHIFTS[-1]))


def key(seeds: Bits, positions: Bits) -> Bits:
    """The key of a token's numbers. position: how many tokens were generated before it."""
    return mix(mix(seeds) + positions)


def exponential(keys: Bits, numbers: Bits) -> npt.NDArray[np.float64]:
    """Numbers of the exponential distribution with mean 1, greater than 0."""
    fraction = mix(keys + (numbers + np.uint64(1)) * np.uint64(GAMMA)) >> np.uint64(64 - FRACTION_BITS)
    return -np.log((fraction.astype(np.float64) + 0.5) * 2.0**-FRACTION_BITS)
