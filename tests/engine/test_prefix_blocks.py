"""The prefix cache of vLLM, and what the router and the simulated engines know of it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from benchmarks.fleet.blocks import Blocks
from server.engine.prefixes import BLOCK, Prefixes, chain

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Pool:
    """vLLM's own blocks, for jobs one after the other or several at once. Blocks are named as ours are."""

    def __init__(self, num_blocks: int) -> None:
        from vllm.v1.core.block_pool import BlockPool

        self.pool = BlockPool(num_blocks + 1, enable_caching=True, hash_block_size=BLOCK)  # one is never used

    def found(self, hashes: list[int]) -> list[Any]:
        found = []
        for one in hashes:
            if (block := self.pool.get_cached_block(_name(one), [0])) is None:
                break
            found += block
        return found

    def take(self, hashes: list[int], num_others: int) -> list[Any]:
        found = self.found(hashes)
        self.pool.touch(found)
        blocks = [*found, *self.pool.get_new_blocks(len(hashes) - len(found) + num_others)]
        self.cache(blocks, hashes, len(found))
        return blocks

    def cache(self, blocks: list[Any], hashes: list[int], num_known: int) -> None:
        from types import SimpleNamespace

        request: Any = SimpleNamespace(block_hashes=[_name(one) for one in hashes])
        self.pool.cache_full_blocks(request, blocks, num_known, len(hashes), BLOCK, 0)

    def give(self, blocks: list[Any]) -> None:
        self.pool.free_blocks(reversed(blocks))


def _name(block: int) -> Any:
    return block.to_bytes(8, signed=True)


def tokens(rng: Random, num_blocks: int) -> list[int]:
    return [rng.randrange(10**6) for _ in range(num_blocks * BLOCK)]


@pytest.mark.parametrize("seed", range(3))
def test_the_router_knows_the_cache(seed: int) -> None:
    """Of each prompt of 500 it says how many blocks vLLM's pool holds, when jobs come one after the other and
    the pool is too small for all of them."""
    rng, size = Random(seed), 60
    pool, blocks, prefixes = Pool(size), Blocks(size), Prefixes()
    prefixes.set_capacity(0, size)
    beginnings = [tokens(rng, rng.randrange(1, 12)) for _ in range(9)]
    for _ in range(500):
        text = [*rng.choice(beginnings), *tokens(rng, rng.randrange(5))]
        prompt, whole = chain(text), chain([*text, *tokens(rng, rng.randrange(4))])
        num = len(pool.found(prompt))
        assert (prefixes.held(prompt, [0])[0], blocks.num_held(prompt)) == (num, num)
        taken = pool.take(prompt, len(whole) - len(prompt))
        blocks.take(prompt, len(whole) - len(prompt))
        pool.cache(taken, whole, len(prompt))
        pool.give(taken)
        blocks.give(prompt, whole, len(whole) - len(prompt))
        prefixes.add(0, prompt)
        prefixes.add(0, whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_simulated_blocks_are_vllms(seed: int) -> None:
    """Also with ten jobs at once, which hold what they use."""
    rng, size = Random(seed), 150
    pool, blocks = Pool(size), Blocks(size)
    beginnings = [tokens(rng, rng.randrange(1, 12)) for _ in range(9)]
    running: list[tuple[list[Any], list[int], list[int]]] = []
    for _ in range(500):
        if len(running) == 10:
            taken, prompt, whole = running.pop(rng.randrange(10))
            pool.cache(taken, whole, len(prompt))
            pool.give(taken)
            blocks.give(prompt, whole, len(whole) - len(prompt))
        text = [*rng.choice(beginnings), *tokens(rng, rng.randrange(3))]
        prompt, whole = chain(text), chain([*text, *tokens(rng, rng.randrange(2))])
        assert blocks.num_held(prompt) == len(pool.found(prompt))
        assert blocks.take(prompt, len(whole) - len(prompt))
        running.append((pool.take(prompt, len(whole) - len(prompt)), prompt, whole))
