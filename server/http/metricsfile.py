"""The file of a process's metrics, with its disk space allocated in advance.

prometheus_client maps the file into memory and lets it grow as values are written. On a full disk, the kernel
would then end the process (SIGBUS).
"""

from __future__ import annotations

import os

from prometheus_client.mmap_dict import MmapedDict

FILE_BYTES = 1 << 18  # two thousand values; the file grows if more are needed
VALUE_BYTES = 64  # bytes of a value, besides its name


class MetricsFile(MmapedDict):
    """Raises OSError if the disk has no room."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            _take_room(filename, FILE_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + VALUE_BYTES > self._capacity:
            _take_room(self._fname, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def _take_room(filename: str, num_bytes: int) -> None:
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    finally:
        os.close(descriptor)
