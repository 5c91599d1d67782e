"""Memory that several processes read and write, with a lock that is released when its holder ends.

The kernel releases the lock of a process that ends. Nobody waits long for a process that was stopped.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

# A holder needs the lock for 20 microseconds. If it was stopped meanwhile, it must not stop the others.
PATIENCE_S = 0.05
PAUSE_S = 20e-6
GIVEN_UP_S = 1.0  # seconds during which nobody waits for it again


class Memory:
    """Memory of this process alone, or of all processes that map the file. Used as a context manager, which
    returns whether this process holds the lock; if not, another process was stopped while it held it."""

    def __init__(self, file: Path | None, size: int) -> None:
        self._descriptor: int | None = None
        self._is_locked = False
        self._given_up_until = 0.0
        self.bytes: bytearray | mmap.mmap = bytearray(size)
        if file is not None:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.bytes = mmap.mmap(self._descriptor, self._extend(self._descriptor, size))

    def grow(self, size: int) -> None:
        """Grow to at least that size. Needs the lock. Raises OSError if the disk is full."""
        if size <= len(self.bytes):
            return
        if isinstance(self.bytes, bytearray):
            self.bytes.extend(bytes(size - len(self.bytes)))
        else:
            assert self._descriptor is not None
            self.bytes.resize(self._extend(self._descriptor, size))

    def _extend(self, descriptor: int, size: int) -> int:
        """Grow the file to at least that size and allocate its blocks: without them, writing to the memory
        would end the process. Returns the size, which another process may have made larger."""
        size = max(size, os.fstat(descriptor).st_size)
        os.posix_fallocate(descriptor, 0, size)
        return size

    def __enter__(self) -> bool:
        self._is_locked = self._descriptor is not None and self._acquire(self._descriptor)
        return self._is_locked or self._descriptor is None

    def __exit__(self, *_: object) -> None:
        if self._is_locked and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _acquire(self, descriptor: int) -> bool:
        end = 0.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return True
            now = time.monotonic()
            end = end or now + PATIENCE_S
            if now < self._given_up_until:
                return False
            if now > end:
                self._given_up_until = now + GIVEN_UP_S
                log.error(
                    "a process holds the lock of the keys' limits too long; some requests are not counted"
                    " towards the limits"
                )
                return False
            time.sleep(PAUSE_S)
