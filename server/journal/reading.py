"""Reads the records of a journal's files in order, even if they were renamed, numbered or compressed."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from server.errors import ConfigurationError
from server.journal.entry import Entry, decode

# journal.jsonl, journal-000001.jsonl; and logrotate's
# journal.jsonl.1, journal.jsonl.2.gz, journal.jsonl-20261127.
NAME = re.compile(r"journal(-\d+)?\.jsonl([.-][\w.-]+)?")
GZIP = b"\x1f\x8b"
REPORT_EVERY = 4096  # lines
# (bytes read so far of the files on disk, bytes in total)
Report = Callable[[int, int], None]


@dataclass(slots=True)
class File:
    """An open file: opened before a running server can rename it. first: the time of its first record."""

    raw: BinaryIO
    lines: BinaryIO
    size: int
    first: str


class Reader:
    """path: the folder, or one file. since: earlier records are not needed; as Entry.time.

    num_damaged: lines so far that are not records, such as those cut by a kill -9. Raises ConfigurationError
    if there is no journal, or it cannot be read.
    """

    def __init__(self, path: Path, since: str = "", report: Report = lambda done, total: None) -> None:
        self.num_damaged = 0
        self._report = report
        try:
            found = [path] if path.is_file() else [one for one in path.iterdir() if NAME.fullmatch(one.name)]
            opened = [file for one in found if (file := _opened(one, since)) is not None]
        except OSError as error:
            raise ConfigurationError(f"cannot read the journal in {path}: {error.strerror}.") from None
        if not found:
            raise ConfigurationError(f"{path} has no journal: it contains no file journal.jsonl.")
        self._files = sorted(opened, key=lambda file: file.first)

    def __iter__(self) -> Iterator[Entry]:
        total = sum(file.size for file in self._files)
        before, number = 0, 0
        for file in self._files:
            with file.raw:
                for line in _lines(file):
                    number += 1
                    if number % REPORT_EVERY == 0:
                        self._report(before + file.raw.tell(), total)
                    try:
                        yield decode(line)
                    except msgspec.MsgspecError:
                        self.num_damaged += line != b"\n"
            before += file.size


def _lines(file: File) -> Iterator[bytes]:
    """The lines of a file; of a truncated compressed one, as many as can be read."""
    with contextlib.suppress(EOFError, gzip.BadGzipFile):
        yield from file.lines


def _opened(path: Path, since: str) -> File | None:
    """None: the file is gone, or all its records are too old."""
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        return None  # removed, or renamed by logrotate, a moment ago
    stat = os.fstat(raw.fileno())
    if since and f"{datetime.fromtimestamp(stat.st_mtime, UTC):%Y-%m-%dT%H:%M:%S.}999Z" < since:
        raw.close()
        return None
    packed = raw.read(2) == GZIP
    raw.seek(0)
    lines = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
    first = ""
    with contextlib.suppress(EOFError, gzip.BadGzipFile):
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):
                first = decode(line).time
                break
    lines.seek(0)
    return File(raw, lines, stat.st_size, first)
