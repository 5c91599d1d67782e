"""The files of a journal: the current one, and earlier ones with numbers, as many as are kept.

All processes of a server append to one file. Each write is of whole lines, under a lock that the kernel
releases if its holder is killed. Before each write the file is checked: another process, or logrotate, may
have renamed or truncated it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

CURRENT = "journal.jsonl"
NUMBERED = re.compile(r"journal-(\d{6,})\.jsonl")


class Files:
    """folder: created if missing, for this user only. max_bytes: of a file. count: the largest number of
    files, including the current one; the oldest is removed."""

    def __init__(self, folder: Path, max_bytes: int, count: int) -> None:
        self._folder = folder
        self._path = folder / CURRENT
        self._max_bytes = max_bytes
        self._count = count
        self._descriptor: int | None = None
        self._size = 0  # after the last write of this process, which consisted of whole lines

    def open(self) -> None:
        """Raises OSError if the file cannot be opened."""
        with self._locked():
            pass

    def append(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError; then nothing of them was written. If a process was killed in
        the middle of a line, that line is ended first."""
        with self._locked() as descriptor:
            size = os.fstat(descriptor).st_size
            if size and size + len(lines) > self._max_bytes:
                self._number()
            else:
                is_whole = size in (0, self._size) or os.pread(descriptor, 1, size - 1) == b"\n"
                self._size = _append(descriptor, lines if is_whole else b"\n" + lines, size)
                return
        self.append(lines)

    def close(self) -> None:
        """Close the file; another append opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self._size = None, 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that has the name now, locked."""
        while True:
            if self._descriptor is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            descriptor = self._descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._has_name(descriptor):
                break
            self.close()
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _has_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _number(self) -> None:
        """Give the current file the next number, and remove files that are too old. The lock on that file
        keeps other processes from doing the same, because the new file comes after this."""
        found = sorted(self._numbered())
        number = found[-1][0] + 1 if found else 1
        for _, old in found[: max(0, len(found) - self._count + 2)]:
            old.unlink(missing_ok=True)
        target = self._path.with_name(f"journal-{number:06d}.jsonl")
        if self._count > 1:
            self._path.rename(target)
        else:
            self._path.unlink()

    def _numbered(self) -> Iterator[tuple[int, Path]]:
        for path in self._folder.iterdir():
            if match := NUMBERED.fullmatch(path.name):
                yield int(match[1]), path


def _append(descriptor: int, lines: bytes, size: int) -> int:
    """Append lines. size: of the file before. Returns its size after."""
    try:
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)
        raise
    return size + len(lines)
