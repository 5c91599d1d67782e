"""Which replica holds the beginning of which prompt, told from what each was sent.

An engine's prefix cache keeps whole blocks of tokens, each under a hash of the block and of all before it,
and gives up the one that was used longest ago. This is the same, of all replicas of a model in one table. It
may be wrong: what it costs then is time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 16  # tokens; vLLM's own default
MOST_BLOCKS = 1 << 16  # of a replica whose cache is of unknown size: a million tokens


def chain(token_ids: Sequence[int], *, before: int = 0, start: int = 0) -> list[int]:
    """The hash of each whole block from that index on, with all before it. before: the hash of the block
    before the first. The same in every process: Python's hash of numbers has no random part."""
    blocks = []
    for end in range(start + BLOCK, len(token_ids) + 1, BLOCK):
        before = hash((before, *token_ids[end - BLOCK : end]))
        blocks.append(before)
    return blocks


class Prefixes:
    """Replicas are numbers."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # by block: a bit for each replica that holds it
        self._held: dict[int, OrderedDict[int, None]] = {}  # by replica; the longest unused first
        self._capacity: dict[int, int] = {}

    def set_capacity(self, replica: int, num_blocks: int) -> None:
        """As many blocks as its cache has."""
        self._capacity[replica] = num_blocks

    def held(self, blocks: Sequence[int], replicas: Sequence[int]) -> dict[int, int]:
        """How many of a prompt's blocks, from its first on, each of them holds."""
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
        """It has them now, or will have by the time that anything sent later needs them."""
        held = self._held.setdefault(replica, OrderedDict())
        bit = 1 << replica
        for block in reversed(blocks):  # the last of a prompt is given up first, as in the engine
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._holders[block] = self._holders.get(block, 0) | bit
        for _ in range(len(held) - self._capacity.get(replica, MOST_BLOCKS)):
            self._drop(held.popitem(last=False)[0], bit)

    def forget(self, replica: int) -> None:
        """Its cache is gone."""
        for block in self._held.pop(replica, ()):
            self._drop(block, 1 << replica)

    def _drop(self, block: int, bit: int) -> None:
        if left := self._holders[block] & ~bit:
            self._holders[block] = left
        else:
            del self._holders[block]
