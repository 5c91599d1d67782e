"""Reads a bundle: its files whole or from parts, each byte checked against a digest.

Files are written while they are hashed, so that nothing can change between check and use. Problems are
collected instead of raised, so that one run names every bad file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from sealed.files import UnreadableError, create, open_file, walk
from sealed.manifest import DETACHED, MANIFEST, SIGNATURE, Entry, Manifest

CHUNK_BYTES = 1 << 20

Problems = dict[str, str]  # file name -> what is wrong
Report = Callable[[int, int], None]  # bytes done, bytes in all
Place = Callable[[Entry], Path | None]  # where to write a file; None: only check it


def silent(done: int, total: int) -> None: ...


class Counter:
    """Bytes read so far, reported as they grow."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def add(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)


def check(folder: Path, manifest: Manifest, report: Report = silent) -> Problems:
    """The problems of a bundle; every byte is checked, and files that do not belong to it are reported."""
    return take(folder, manifest, lambda _: None, report)


def take(folder: Path, manifest: Manifest, place: Place, report: Report = silent) -> Problems:
    """Check a bundle and write its files, joined from parts, where `place` says.

    The written files may only be used if no problem is returned. None of them may exist before.
    """
    counter = Counter(report, sum(entry.size for entry in manifest.beside + manifest.parts))
    problems = unlisted(folder, manifest)
    for entry in manifest.beside:
        writer = Writer(entry, place(entry))
        _note(problems, entry, _read(folder / entry.path, entry, counter, writer.feed))
        writer.close()
    if manifest.parts:
        cutter = Cutter(manifest.files, place)
        for part in manifest.parts:
            _note(problems, part, _read(folder / part.path, part, counter, cutter.feed))
            if problems:
                cutter.stop()
        cutter.close()
        if not problems:  # a damaged part damages files too, but the part is what can be copied again
            problems = cutter.problems
    return problems


def unlisted(folder: Path, manifest: Manifest) -> Problems:
    """Files in a bundle's folder that are not part of the bundle."""
    listed = {MANIFEST, SIGNATURE, *(entry.path for entry in manifest.beside + manifest.parts)}
    names = (path.relative_to(folder).as_posix() for path in walk(folder))
    return {
        name: "not part of the bundle"
        for name in sorted(names)
        if name not in listed and not DETACHED.fullmatch(name)
    }


def is_file(path: Path, entry: Entry) -> bool:
    """Whether a file matches its entry."""
    return _read(path, entry, Counter(silent, 0), lambda _: None) is None


def _note(problems: Problems, entry: Entry, problem: str | None) -> None:
    if problem:
        problems[entry.path] = problem


def _read(path: Path, entry: Entry, counter: Counter, feed: Callable[[bytes], None]) -> str | None:
    """What is wrong with a file. `feed` gets its bytes."""
    digest, size = hashlib.sha256(), 0
    try:
        with open_file(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                counter.add(len(chunk))
                if size > entry.size:
                    return f"too long: more than {entry.size} bytes"
                feed(chunk)
    except FileNotFoundError:
        return "missing"
    except UnreadableError as error:
        return str(error)
    if size < entry.size:
        return f"cut short: {size} of {entry.size} bytes"
    if digest.hexdigest() != entry.sha256:
        return f"altered: its SHA-256 is {digest.hexdigest()}, not {entry.sha256}"
    return None


class Writer:
    """One file of the payload, hashed and, if it has a place, written there."""

    def __init__(self, entry: Entry, path: Path | None) -> None:
        self.entry, self.left = entry, entry.size
        self._digest = hashlib.sha256()
        self._out = create(path) if path else None

    def feed(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.left -= len(data)
        if self._out:
            self._out.write(data)

    def close(self) -> str | None:
        """What is wrong with the bytes that were fed."""
        if self._out:
            self._out.close()
        found, expected = self._digest.hexdigest(), self.entry.sha256
        return None if found == expected else f"altered: its SHA-256 is {found}, not {expected}"


class Cutter:
    """Splits the stream of all parts into the payload's files."""

    def __init__(self, files: Iterable[Entry], place: Place) -> None:
        self.problems: Problems = {}
        self._files, self._place = iter(files), place
        self._writer: Writer | None = None
        self._next()

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._writer:
            piece, view = view[: self._writer.left], view[self._writer.left :]
            self._writer.feed(piece)
            if not self._writer.left:
                self._next()

    def stop(self) -> None:
        """The stream is damaged: stop splitting it."""
        self._files = iter(())
        self.close()

    def close(self) -> None:
        if self._writer:
            _note(self.problems, self._writer.entry, self._writer.close())
        self._writer = None

    def _next(self) -> None:
        """Begin the next file with content; empty ones are made at once."""
        self.close()
        for entry in self._files:
            self._writer = Writer(entry, self._place(entry))
            if entry.size:
                return
            self.close()
