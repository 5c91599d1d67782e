"""Estimates which replica has which prompt prefix in its cache, from the jobs that each was sent.

The prefix cache of an engine keeps whole blocks of tokens, each under a hash of the block and all blocks
before it, and evicts the least recently used. This is the same for all replicas of a model, in one table. It
may be wrong, which only costs time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 16  # tokens; vLLM's default
MOST_BLOCKS = 1 << 16  # for a replica whose cache size is unknown: a million tokens


def chain(token_ids: Sequence[int], *, before: int = 0, start: int = 0) -> list[int]:
    """The hash of each whole block from that index on, together with all blocks before it. before: the hash
    of the block before the first. The hashes are the same in every process, because Python's hash of numbers
    is not randomized."""
    blocks = []
    for end in range(start + BLOCK, len(token_ids) + 1, BLOCK):
        before = hash((before, *token_ids[end - BLOCK : end]))
        blocks.append(before)
    return blocks


class Prefixes:
    """The cached blocks of each replica; replicas are numbers."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # block -> a bit for each replica that holds it
        # Replica -> its blocks, the least recently used first
        self._held: dict[int, OrderedDict[int, None]] = {}
        self._capacity: dict[int, int] = {}

    def set_capacity(self, replica: int, num_blocks: int) -> None:
        """Set the number of blocks in a replica's cache."""
        self._capacity[replica] = num_blocks

    def held(self, blocks: Sequence[int], replicas: Sequence[int]) -> dict[int, int]:
        """How many blocks from the beginning of a prompt each replica holds."""
        lengths = dict.fromkeys(replicas, len(blocks))
        left = 0
        for replica in replicas:
            left |= 1 << replica
        for index, block in enumerate(blocks):
            still = left & self._holders.get(block, 0)
            if still != left:
                for replica in replicas:
                    if (left ^ still) >> replica & 1:
                        lengths[replica] = index
                left = still
            if not left:
                break
        return lengths

    def add(self, replica: int, blocks: Sequence[int]) -> None:
        """The replica has these blocks now, or will have them before it needs them for later jobs."""
        held = self._held.setdefault(replica, OrderedDict())
        bit = 1 << replica
        for block in reversed(blocks):  # the last block of a prompt is evicted first, as in the engine
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._holders[block] = self._holders.get(block, 0) | bit
        for _ in range(len(held) - self._capacity.get(replica, MOST_BLOCKS)):
            self._drop(held.popitem(last=False)[0], bit)

    def forget(self, replica: int) -> None:
        """The cache of the replica is gone."""
        for block in self._held.pop(replica, ()):
            self._drop(block, 1 << replica)

    def _drop(self, block: int, bit: int) -> None:
        if left := self._holders[block] & ~bit:
            self._holders[block] = left
        else:
            del self._holders[block]
