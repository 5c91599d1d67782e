"""The records of a journal's files, one after another: whatever has numbered, renamed or compressed them."""

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
# (bytes read so far of the files as they are on the disk, bytes in all)
Report = Callable[[int, int], None]


@dataclass(slots=True)
class File:
    """One that is open, from before it can be renamed by a server that runs. first: the time of
    its first record."""

    raw: BinaryIO
    lines: BinaryIO
    size: int
    first: str


class Reader:
    """path: of the folder, or of one file. since: nothing that came before is needed, as Entry.time.

    num_damaged: lines that are no record, so far: cut by a kill -9, say. Raises ConfigurationError where
    there is no journal, or it cannot be read.
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
            raise ConfigurationError(f"{path} has no journal: no file there is called journal.jsonl.")
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
    """Of a compressed file that is cut, as far as it goes."""
    with contextlib.suppress(EOFError, gzip.BadGzipFile):
        yield from file.lines


def _opened(path: Path, since: str) -> File | None:
    """None: it is gone, or its last record was written before."""
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
