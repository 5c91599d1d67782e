"""Reading a bundle: its files whole or out of parts, each byte of them against its digest.

Problems are collected, not raised, so that one look names every bad file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from bundle.site.manifest import Entry, Manifest

CHUNK_BYTES = 1 << 20

Problems = dict[str, str]  # what is wrong, by the name of the file
Report = Callable[[int, int], None]  # bytes done, bytes in all


def silent(done: int, total: int) -> None: ...


class Counter:
    """Bytes read so far, reported as they grow."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def add(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)


def check(folder: Path, manifest: Manifest, report: Report = silent) -> Problems:
    """What is wrong with a bundle, every byte of it looked at."""
    return _read(folder, manifest, None, report)


def unpack(folder: Path, manifest: Manifest, target: Path, report: Report = silent) -> Problems:
    """Put the files of a bundle in parts together under `target`, checking them on the way.

    What was written is worth nothing unless no problem is returned.
    """
    assert manifest.parts
    return _read(folder, manifest, target, report)


def _read(folder: Path, manifest: Manifest, target: Path | None, report: Report) -> Problems:
    entries = (*manifest.beside, *manifest.parts)
    counter = Counter(report, sum(entry.size for entry in entries))
    problems = check_files(folder, manifest.beside, counter)
    if manifest.parts:
        cutter = Cutter(manifest.files, target)
        problems |= check_files(folder, manifest.parts, counter, cutter)
        cutter.close()
        if not problems:  # a damaged part damages files too: the part is what can be copied again
            problems = cutter.problems
    return problems


def check_files(
    folder: Path, entries: Iterable[Entry], counter: Counter, cutter: Cutter | None = None
) -> Problems:
    """What is wrong with files that lie in a folder. `cutter` is given their bytes."""
    problems: Problems = {}
    for entry in entries:
        problem = _check_file(folder / entry.path, entry, counter, cutter.feed if cutter else None)
        if problem:
            problems[entry.path] = problem
            if cutter:
                cutter.stop()
    return problems


def _check_file(
    path: Path, entry: Entry, counter: Counter, feed: Callable[[bytes], None] | None
) -> str | None:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                counter.add(len(chunk))
                if size > entry.size:
                    break
                if feed:
                    feed(chunk)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size < entry.size:
        return f"cut short: {size} of {entry.size} bytes"
    if size > entry.size:
        return f"too long: more than {entry.size} bytes"
    if digest.hexdigest() != entry.sha256:
        return f"altered: its SHA-256 is {digest.hexdigest()}, not {entry.sha256}"
    return None


class Cutter:
    """Cuts the stream of all parts into the payload's files, and writes those under a given folder."""

    def __init__(self, files: Iterable[Entry], target: Path | None) -> None:
        self.problems: Problems = {}
        self._files, self._target = iter(files), target
        self._entry: Entry | None = None
        self._left, self._digest = 0, hashlib.sha256()
        self._out: BinaryIO | None = None
        self._stopped = False
        self._next()

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._entry and not self._stopped:
            piece, view = view[: self._left], view[self._left :]
            self._digest.update(piece)
            if self._out:
                self._out.write(piece)
            self._left -= len(piece)
            if not self._left:
                self._end()
                self._next()

    def stop(self) -> None:
        """The stream is broken: nothing more can be cut from it."""
        self._stopped = True

    def close(self) -> None:
        if self._out:
            self._out.close()

    def _next(self) -> None:
        """The next file that has bytes; those without are made at once."""
        while (entry := next(self._files, None)) is not None:
            self._entry, self._left, self._digest = entry, entry.size, hashlib.sha256()
            if self._target:
                path = self._target / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                self._out = path.open("wb")
            if entry.size:
                return
            self._end()
        self._entry = None

    def _end(self) -> None:
        assert self._entry
        self.close()
        self._out = None
        found = self._digest.hexdigest()
        if found != self._entry.sha256:
            expected = self._entry.sha256
            self.problems[self._entry.path] = f"altered: its SHA-256 is {found}, not {expected}"
