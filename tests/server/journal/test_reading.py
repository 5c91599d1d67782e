"""The files of a journal are read in order, whatever they are called, and whatever has happened to them."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.journal.entry import Entry, encode
from server.journal.reading import REPORT_EVERY, Reader


def line(number: int) -> bytes:
    time = f"2026-11-{1 + number // 24:02d}T{number % 24:02d}:00:00.000Z"
    return encode(Entry(f"id-{number}", time, "anna", "m", 200, 0.1)) + b"\n"


def numbers(reader: Reader) -> list[int]:
    return [int(entry.id.removeprefix("id-")) for entry in reader]


def test_in_the_order_of_time(tmp_path: Path) -> None:
    """Numbered files, those of logrotate, compressed or not, and the one that is written."""
    files = ["journal.jsonl.2.gz", "journal.jsonl-20261102", "journal-000001.jsonl", "journal-000010.jsonl"]
    for k, name in enumerate([*files, "journal.jsonl"]):
        data = line(3 * k) + line(3 * k + 1) + line(3 * k + 2)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "other.jsonl").write_bytes(line(99))
    (tmp_path / "journal.txt").write_bytes(line(99))
    assert numbers(Reader(tmp_path)) == list(range(15))
    assert numbers(Reader(tmp_path / "journal-000001.jsonl")) == [6, 7, 8]


def test_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    """Lines cut by a kill, holes, a compressed file without its end: the rest is read, they are counted."""
    whole = gzip.compress(b"".join(map(line, range(2000))), 0)
    (tmp_path / "journal.jsonl.1.gz").write_bytes(whole[: len(whole) // 2])
    data = (
        line(3000)[:40] + b"\n" + line(3001) + b"\n" + b"\x00" * 50 + b"\n{}\n" + line(3002) + line(3003)[:-5]
    )
    (tmp_path / "journal.jsonl").write_bytes(data)
    reader = Reader(tmp_path)
    found = numbers(reader)
    assert found[-2:] == [3001, 3002]
    assert found[:500] == list(range(500))
    assert reader.num_damaged in (4, 5)  # the compressed file's last line may be one


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(line(1)[:-2] + b',"new":{"a":[1]},"v":9}\n')
    assert numbers(Reader(tmp_path)) == [1]


def test_a_file_that_is_renamed_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    """It is open from the beginning."""
    (tmp_path / "journal-000001.jsonl").write_bytes(line(1))
    (tmp_path / "journal.jsonl").write_bytes(line(2))
    entries = iter(reader := Reader(tmp_path))
    first = next(entries)
    (tmp_path / "journal-000001.jsonl").unlink()
    (tmp_path / "journal.jsonl").rename(tmp_path / "journal-000002.jsonl")
    (tmp_path / "journal.jsonl").write_bytes(line(3))
    assert [first.id, *(entry.id for entry in entries)] == ["id-1", "id-2"]
    assert reader.num_damaged == 0


def test_files_of_before_are_not_opened(tmp_path: Path) -> None:
    """Their last change says that nothing wanted is in them."""
    (tmp_path / "journal-000001.jsonl").write_bytes(line(1))
    (tmp_path / "journal.jsonl").write_bytes(line(50))
    os.utime(tmp_path / "journal-000001.jsonl", (1000, 1000))
    assert numbers(Reader(tmp_path, since="2026-11-02T00:00:00.000Z")) == [50]


@pytest.mark.parametrize("name", ["nothing", "empty", "models.yaml/journal"])
def test_no_journal(tmp_path: Path, name: str) -> None:
    """Is said."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "models.yaml").touch()
    with pytest.raises(ConfigurationError, match=name):
        Reader(tmp_path / name)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """And how far it is, is told on the way."""
    with (tmp_path / "journal.jsonl").open("wb") as file:
        file.writelines(line(number % 600) for number in range(50_000))
    told: list[tuple[int, int]] = []
    reader = Reader(tmp_path, report=lambda done, total: told.append((done, total)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader) == 50_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert len(told) == 50_000 // REPORT_EVERY
    assert told == sorted(told)
    assert 0 < told[0][0] < told[-1][0] <= told[-1][1] == (tmp_path / "journal.jsonl").stat().st_size
