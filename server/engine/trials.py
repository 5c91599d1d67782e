"""Decides which process may try its suspects, if several processes have jobs on one engine.

A job on trial needs the engine for itself (work.py), so no other process may have jobs there. Each process
with suspects holds a lock on a file of its own, which the kernel releases when the process dies: the first of
them has its trials, and processes without suspects wait until nobody has any.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Trials:
    """folder: of the files; None: this process is alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._name = str(os.getpid())
        self._descriptor: int | None = None

    def note(self, *, has_suspects: bool) -> None:
        """This process has suspects from now on, or has none any more."""
        if self._folder is None or has_suspects == (self._descriptor is not None):
            return
        if self._descriptor is not None:
            (self._folder / self._name).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            return
        with contextlib.suppress(OSError):  # on a full disk, trials go on as if there were no other processes
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / f".{self._name}"  # nobody reads a file with this name
            self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            new.rename(self._folder / self._name)

    def is_next(self) -> bool:
        """Whether this process may send jobs: its suspects, one at a time, or else all jobs."""
        if self._folder is None:
            return True
        others = [name for name in self._names() if name != self._name and self._lives(self._folder / name)]
        return not others or (self._descriptor is not None and self._name < min(others))

    def _names(self) -> list[str]:
        assert self._folder is not None
        try:
            return [file.name for file in self._folder.iterdir() if not file.name.startswith(".")]
        except OSError:  # no process has had suspects so far
            return []

    @staticmethod
    def _lives(file: Path) -> bool:
        """Whether the process of this file lives; if not, the file is removed."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        file.unlink(missing_ok=True)
        return False
