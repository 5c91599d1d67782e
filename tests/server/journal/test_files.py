"""The files of a journal, and what else may happen to them."""

from __future__ import annotations

import contextlib
import gzip
import multiprocessing
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.journal.files import CURRENT, Files

LINE = b"x" * 99 + b"\n"


def files_of(folder: Path, *, max_bytes: int = 1000, count: int = 3) -> Files:
    return Files(folder, max_bytes, count)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond it, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """The folder is made, 0700; the file has the mode 0600, whatever comes into it."""
    files_of(tmp_path / "a" / "journal").open()
    assert stat.S_IMODE((tmp_path / "a" / "journal").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "journal" / CURRENT).stat().st_mode) == 0o600


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_disk_that_they_take_is_bounded(tmp_path: Path, count: int) -> None:
    """A full file gets the next number, the oldest goes, and the newest lines are there."""
    files = files_of(tmp_path, count=count)
    for number in range(100):
        files.append(b"%099d\n" % number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000 * count
    assert len(names(tmp_path)) == count
    kept = b"".join((tmp_path / name).read_bytes() for name in names(tmp_path)).split()
    assert [int(line) for line in kept] == list(range(100 - len(kept), 100))
    assert len(kept) == 10 * count


def test_a_line_that_is_larger_than_a_file_is_whole(tmp_path: Path) -> None:
    """It is in a file of its own."""
    files = files_of(tmp_path)
    for line in (LINE, b"y" * 5000 + b"\n", LINE):
        files.append(line)
    assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == [100, 5001, 100]


def test_logrotate_may_rename_the_file(tmp_path: Path) -> None:
    """What comes then is in a new one, and nothing is lost; files that are not numbered here are
    nobody's to remove."""
    files = files_of(tmp_path, count=1)
    files.append(LINE)
    (tmp_path / CURRENT).rename(tmp_path / "journal.jsonl.1")
    for _ in range(15):
        files.append(LINE)
    assert names(tmp_path) == ["journal.jsonl", "journal.jsonl.1"]
    assert (tmp_path / "journal.jsonl.1").read_bytes() == LINE


def test_logrotate_may_cut_the_file(tmp_path: Path) -> None:
    """With copytruncate it goes on at the beginning, without a hole."""
    files = files_of(tmp_path)
    files.append(LINE)
    with gzip.open(tmp_path / "journal.jsonl.1.gz", "wb") as copy:
        copy.write((tmp_path / CURRENT).read_bytes())
    os.truncate(tmp_path / CURRENT, 0)
    files.append(LINE)
    assert (tmp_path / CURRENT).read_bytes() == LINE


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """With the next line."""
    files = files_of(tmp_path / "journal")
    files.append(LINE)
    (tmp_path / "journal" / CURRENT).unlink()
    (tmp_path / "journal").rmdir()
    files.append(LINE)
    assert (tmp_path / "journal" / CURRENT).read_bytes() == LINE


def test_a_torn_line_is_ended(tmp_path: Path) -> None:
    """A process that was killed has left half a line: the next one is whole."""
    (tmp_path / CURRENT).write_bytes(LINE + LINE[:40])
    files_of(tmp_path).append(LINE)
    assert (tmp_path / CURRENT).read_bytes() == LINE + LINE[:40] + b"\n" + LINE


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """What does not fit is not there at all; when there is room it goes on."""
    files = files_of(tmp_path, max_bytes=1 << 20)
    with file_size_limit(250):
        files.append(LINE)
        with pytest.raises(OSError, match=r"No space|too large"):
            files.append(LINE + LINE)
        with pytest.raises(OSError, match=r"No space|too large"):
            files.append(LINE + LINE)
    assert (tmp_path / CURRENT).read_bytes() == LINE
    files.append(LINE + LINE)
    assert (tmp_path / CURRENT).read_bytes() == LINE * 3


def _fill(folder: Path, name: int) -> None:
    files = files_of(folder, max_bytes=200, count=10_000)
    for number in range(150):
        files.append(b"%03d-%03d %s\n" % (name, number, b"z" * (number % 90)))


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Several that append at once, through many changes of the file, lose nothing and cut nothing."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(tmp_path, name)) for name in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = b"".join((tmp_path / name).read_bytes() for name in names(tmp_path)).splitlines()
    found = [line.split()[0] for line in lines]
    assert sorted(found) == sorted(b"%03d-%03d" % (name, k) for name in range(4) for k in range(150))
    for name in range(4):  # each one's in its order
        assert [line for line in found if line.startswith(b"%03d" % name)] == [
            b"%03d-%03d" % (name, k) for k in range(150)
        ]
