"""A wheel without the files that a profile leaves out: still a wheel, its RECORD says what is in it."""

from __future__ import annotations

import copy
import csv
import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from bundle.profile import FileRule

EPOCH = (1980, 1, 1, 0, 0, 0)
LOCAL_HEADER_BYTES = 30  # of which the last four are the lengths of name and extra field
SIZES_FOLLOW = 0x08  # flag: sizes stand behind the data; they are known here, and stand before it


def removable(wheel: Path, rules: Sequence[FileRule]) -> dict[str, int]:
    """The files of a wheel that rules leave out, with their sizes in it."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            item.filename: item.compress_size
            for item in archive.infolist()
            if any(rule.matches(item.filename) for rule in rules)
        }


def prune(wheel: Path, removed: Sequence[str], target: Path) -> None:
    """Write `target`: the wheel without these files. The same bytes every time."""
    gone, temporary = set(removed), target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as source, temporary.open("wb") as out, zipfile.ZipFile(out, "w") as archive:
        for item in source.infolist():
            if item.filename in gone or item.is_dir():
                continue
            if item.filename.endswith(".dist-info/RECORD"):
                record = zipfile.ZipInfo(item.filename, EPOCH)
                record.external_attr = item.external_attr
                archive.writestr(record, _record(source.read(item).decode(), gone))
            else:
                _take_over(source, item, archive, out)
    temporary.replace(target)


def _record(text: str, gone: set[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows(row for row in csv.reader(text.splitlines()) if row and row[0] not in gone)
    return out.getvalue()


def _take_over(
    source: zipfile.ZipFile, item: zipfile.ZipInfo, archive: zipfile.ZipFile, out: BinaryIO
) -> None:
    """Copy a file as it is compressed: a gigabyte of torch, compressed anew, takes a minute."""
    assert source.fp
    source.fp.seek(item.header_offset + LOCAL_HEADER_BYTES - 4)
    name_bytes, extra_bytes = struct.unpack("<HH", source.fp.read(4))
    source.fp.seek(name_bytes + extra_bytes, 1)
    fresh = copy.copy(item)
    fresh.header_offset, fresh.extra = out.tell(), b""
    fresh.flag_bits &= ~SIZES_FOLLOW
    out.write(fresh.FileHeader())
    left = item.compress_size
    while left:
        left -= out.write(source.fp.read(min(left, 1 << 20)))
    archive.filelist.append(fresh)
    archive.NameToInfo[fresh.filename] = fresh
    archive.start_dir = out.tell()
