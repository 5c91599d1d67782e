"""The KV cache blocks of one engine, as in vLLM's block pool (vllm.v1.core.block_pool).

A full block has the hash of all tokens up to its end. It keeps the hash after its job has ended, until the
block is needed for something else: the one that was freed longest ago goes first, and of one job the last of
its text. Blocks that jobs use are not taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Blocks:
    """num_free: available blocks, including those that keep a hash."""

    def __init__(self, num_blocks: int) -> None:
        self.num_free = self._num_blank = num_blocks  # blank: free, without a hash
        self._used: dict[int, int] = {}  # hash -> number of jobs that use it
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, in the order in which they are taken

    def num_held(self, hashes: Sequence[int]) -> int:
        """How many of these blocks are here, from the first on."""
        for index, block in enumerate(hashes):
            if block not in self._used and block not in self._kept:
                return index
        return len(hashes)

    def take(self, hashes: Sequence[int], num_others: int = 0) -> bool:
        """Take these blocks for a job, whether they are here or not, and others without a hash. False: there
        are not enough, and nothing has changed."""
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
        """Give back a job's blocks. text: the hashes of what was computed, which are kept; it begins with
        those that were taken, or is the beginning of them."""
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
