"""The thread that writes records: who adds one waits for nothing."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.journal import writer as writers
from server.journal.counts import JournalMetrics
from server.journal.entry import Entry, decode, encode
from server.journal.files import CURRENT, Files
from server.journal.writer import Writer
from tests.serving import wait_for


class Disk(Files):
    """One that can be full, or stand still."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1 << 20, 3)
        self.is_full = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def append(self, lines: bytes) -> None:
        self.goes_on.wait(30)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(lines)


def entry(number: int = 0) -> Entry:
    return Entry(f"id-{number}", "2026-11-27T10:00:00.000Z", "anna", "m", 200, 0.1)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def metrics() -> JournalMetrics:
    return JournalMetrics(CollectorRegistry())


@pytest.fixture
def writer(disk: Disk, metrics: JournalMetrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(writers, "RETRY_S", 0.02)
    writer = Writer(disk, metrics)
    yield writer
    disk.goes_on.set()
    writer.close()


def ids(folder: Path) -> list[str]:
    path = folder / CURRENT
    return [decode(line).id for line in path.read_bytes().splitlines()] if path.exists() else []


def test_records_are_lines(writer: Writer, tmp_path: Path) -> None:
    """In the order in which they came, a moment later."""
    for number in range(1000):
        writer.add(entry(number))
    wait_for(lambda: len(ids(tmp_path)) == 1000, 30)
    assert ids(tmp_path) == [f"id-{number}" for number in range(1000)]


def test_the_end_loses_nothing(writer: Writer, tmp_path: Path, metrics: JournalMetrics) -> None:
    """What has been added when it is closed is written."""
    for number in range(5000):
        writer.add(entry(number))
    writer.close()
    assert len(ids(tmp_path)) == 5000
    writer.add(entry())
    assert (len(ids(tmp_path)), metrics.num_dropped) == (5000, 1)


def test_a_slow_disk_holds_nobody_up(
    writer: Writer, disk: Disk, metrics: JournalMetrics, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What waits is bounded, by number; the rest is dropped and counted."""
    monkeypatch.setattr(writers, "MAX_WAITING", 100)
    disk.goes_on.clear()
    began = time.monotonic()
    for number in range(10_000):
        writer.add(entry(number))
    assert time.monotonic() - began < 5
    assert 10_000 - metrics.num_dropped <= 100 + 2000  # those of the piece that the disk has
    disk.goes_on.set()
    writer.close()
    assert len(ids(tmp_path)) + metrics.num_dropped == 10_000


def test_texts_are_bounded_too(
    writer: Writer, disk: Disk, metrics: JournalMetrics, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of large prompts few wait; one alone may be larger than the bound."""
    monkeypatch.setattr(writers, "MAX_WAITING_CHARS", 1000)
    disk.goes_on.clear()
    writer.add(entry(), 5000)
    wait_for(lambda: not writer._waiting, 30)
    for number in range(20):
        writer.add(entry(number), 300)
    assert metrics.num_dropped == 17
    disk.goes_on.set()
    wait_for(lambda: len(ids(tmp_path)) == 4, 30)
    writer.add(entry(), 900)
    wait_for(lambda: len(ids(tmp_path)) == 5, 30)


def test_a_full_disk_is_said_once_and_waited_for(
    writer: Writer, disk: Disk, metrics: JournalMetrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line in the log when it begins, one when it is over; what memory had room for is written."""
    caplog.set_level(logging.INFO)
    disk.is_full = True
    for number in range(50):
        writer.add(entry(number))
        time.sleep(0.002)
    wait_for(lambda: "No space left" in caplog.text, 30)
    time.sleep(0.2)
    disk.is_full = False
    wait_for(lambda: len(ids(tmp_path)) == 50, 30)
    wait_for(lambda: "written again; 0 records" in caplog.text, 30)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert metrics.num_dropped == 0


def test_an_end_on_a_full_disk_is_an_end(
    writer: Writer, disk: Disk, metrics: JournalMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not wait for ever, and says how many records are lost."""
    disk.is_full = True
    for number in range(10):
        writer.add(entry(number))
    writer.close()
    assert metrics.num_dropped == 10
    assert "the last 10 records are missing" in caplog.text


def test_one_that_cannot_be_written_costs_no_other(
    disk: Disk, metrics: JournalMetrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours is in the log, and counted."""

    def line(one: Entry) -> bytes:
        return {}[0] if one.id == "id-1" else encode(one)  # type: ignore[index]

    writer = Writer(disk, metrics, line)
    for number in range(3):
        writer.add(entry(number))
    writer.close()
    assert ids(tmp_path) == ["id-0", "id-2"]
    assert (metrics.num_dropped, "id-1 could not be recorded in the journal" in caplog.text) == (1, True)
