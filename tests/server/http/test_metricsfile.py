"""The files of metrics of a server of several processes."""

from __future__ import annotations

from pathlib import Path

from server.http.metricsfile import FILE_BYTES, MetricsFile


def has_its_room(path: Path) -> bool:
    """Whether each byte of the file has a place on the disk."""
    stat = path.stat()
    return stat.st_blocks * 512 >= stat.st_size


def test_room_is_taken_before_it_is_needed(tmp_path: Path) -> None:
    """At the beginning, and when there are more values; all of them are there, for others too."""
    path = tmp_path / "counter_1.db"
    file = MetricsFile(str(path))
    assert has_its_room(path)
    for number in range(10_000):
        file.write_value(f"a name {number}", number, 0)
    assert path.stat().st_size > FILE_BYTES
    assert has_its_room(path)
    read = MetricsFile(str(path), read_mode=True)
    assert [value for _, value, _ in read.read_all_values()] == list(range(10_000))
    file.close()
    read.close()
