"""Opens files that others have put there: follows no links, waits for nothing, replaces nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class UnreadableError(Exception):
    """A file that cannot be read as one. Its text says why."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, never a link, a pipe or a device.

    Raises FileNotFoundError, UnreadableError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise UnreadableError(
            "a link, not a file" if link else f"cannot be read: {error.strerror}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError("not a regular file")
    return os.fdopen(descriptor, "rb")


def create(path: Path) -> BinaryIO:
    """Create a new file for writing, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), "wb")


def walk(folder: Path) -> Iterator[Path]:
    """Every file and link below the folder; links are not followed."""
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in (*names, *linked))
