"""The blocks of one engine, as vLLM's block pool has them (vllm.v1.core.block_pool).

A full block has the hash of all tokens up to its end. When its job has ended it keeps it until the block is
needed for something else: the one that was freed longest ago first, and of one job's the last of its text
first. What jobs use is not taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Blocks:
    """num_free: those that can be had, with those that keep a hash."""

    def __init__(self, num_blocks: int) -> None:
        self.num_free = self._num_blank = num_blocks  # blank: free, without a hash
        self._used: dict[int, int] = {}  # by hash: by how many jobs
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, the next to be taken first

    def num_held(self, hashes: Sequence[int]) -> int:
        """How many of them are here, from the first on."""
        for index, block in enumerate(hashes):
            if block not in self._used and block not in self._kept:
                return index
        return len(hashes)

    def take(self, hashes: Sequence[int], num_others: int = 0) -> bool:
        """For a job: these, whether they are here or not, and others without a hash. False: there are not so
        many, and nothing has changed."""
        num_wanted = num_others + sum(block not in self._used for block in hashes)
        if num_wanted > self.num_free:
            return False
        self.num_free -= num_wanted
        for block in hashes:
            if block in self._used:
                self._used[block] += 1
                continue
            self._used[block] = 1
            if block in self._kept:
                del self._kept[block]
            else:
                self._num_blank -= 1
        self._num_blank -= num_others
        while self._num_blank < 0:
            self._kept.popitem(last=False)
            self._num_blank += 1
        return True

    def give(self, hashes: Sequence[int], text: Sequence[int], num_others: int) -> None:
        """Back what a job has taken. text: the hashes of what has been computed, which are kept; it begins
        with those that were taken, or is the beginning of them."""
        self.num_free += num_others
        self._num_blank += num_others
        for block in reversed(text[len(hashes) :]):
            if block in self._kept:
                self._kept.move_to_end(block)
            elif block not in self._used:
                self._num_blank -= 1
                self._kept[block] = None
        for index in range(len(hashes) - 1, -1, -1):
            block = hashes[index]
            self._used[block] -= 1
            if self._used[block]:
                continue
            del self._used[block]
            self.num_free += 1
            if index < len(text):
                self._kept[block] = None
            else:
                self._num_blank += 1
