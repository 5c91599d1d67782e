"""A process's file of metrics, which the server's others read: its room on the disk is taken beforehand.

prometheus_client takes it page by page, as values are written to memory that stands for the file. Where the
disk is full then, there is nobody to tell, and the kernel ends the process (SIGBUS).
"""

from __future__ import annotations

import os

from prometheus_client.mmap_dict import MmapedDict

FILE_BYTES = 1 << 18  # two thousand values; more where more are needed
VALUE_BYTES = 64  # of a value, beside its name


class MetricsFile(MmapedDict):
    """Raises OSError where the disk has no room."""

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
