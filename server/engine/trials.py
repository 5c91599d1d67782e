"""Whose suspect is tried, where several processes have jobs on one engine.

A job on trial has the engine to itself (work.py), so the others' jobs must not be there. Each process that
has suspects holds a lock on a file of its own, which the kernel frees when it dies: the first of them has its
trials, and whoever has none waits until nobody has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Trials:
    """folder: of the files, the processes' own; None: this process is alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._name = str(os.getpid())
        self._descriptor: int | None = None

    def note(self, *, has_suspects: bool) -> None:
        """This process has suspects from now on, or none any more."""
        if self._folder is None or has_suspects == (self._descriptor is not None):
            return
        if self._descriptor is not None:
            (self._folder / self._name).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            return
        with contextlib.suppress(OSError):  # of a full disk: then it is as if there were no others
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / f".{self._name}"  # at which nobody looks
            self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            new.rename(self._folder / self._name)

    def is_next(self) -> bool:
        """Whether this process may send its jobs: its suspects, one by one, or else all of them."""
        if self._folder is None:
            return True
        others = [name for name in self._names() if name != self._name and self._lives(self._folder / name)]
        return not others or (self._descriptor is not None and self._name < min(others))

    def _names(self) -> list[str]:
        assert self._folder is not None
        try:
            return [file.name for file in self._folder.iterdir() if not file.name.startswith(".")]
        except OSError:  # nobody had any so far
            return []

    @staticmethod
    def _lives(file: Path) -> bool:
        """Whether the process whose file it is does; the file of one that does not is removed."""
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
