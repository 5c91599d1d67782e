"""Writes records from a thread: who adds one never waits for the disk.

What waits to be written is bounded. Where the disk is full, or too slow, records are kept until the bound is
reached, and dropped and counted from there on; the log says so once, and once when it is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.journal.counts import JournalMetrics
from server.journal.entry import Entry, encode
from server.journal.files import Files

log = logging.getLogger(__name__)

# What may wait: records, and characters of the prompts and texts in them.
MAX_WAITING, MAX_WAITING_CHARS = 20_000, 32 * 1024 * 1024
# Each time that the thread wants the interpreter the event loop gives it up, which lasts where the machine is
# busy: so it writes seldom, and much at once.
GATHER_S = 0.25  # for more to come, which is written with the first: what a kill -9 may cost
RETRY_S = 1.0  # after a write that has failed
PIECE_BYTES = 256 * 1024  # of one write
# What is made into lines at a time, about a millisecond: between two such times the event loop may run.
AT_A_TIME_BYTES = 128 * 1024


@dataclass(slots=True)
class Waiting:
    """num_chars: of its prompt and texts."""

    entry: Entry
    num_chars: int


class Writer:
    """line: makes one of a record, without its end; in the thread, which begins with the first record. end:
    called when there are no more."""

    def __init__(
        self,
        files: Files,
        metrics: JournalMetrics,
        line: Callable[[Entry], bytes] = encode,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._files = files
        self._metrics = metrics
        self._make = line
        self._end = end
        self._waiting: deque[Waiting] = deque()
        # Each is one thread's to change, so that neither waits for the other.
        self._chars_added = self._chars_taken = 0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lines, self._num_lines = b"", 0  # the write that has failed, and is tried again
        self._dropped_before: int | None = None  # when it began to fail; None: it does not

    def add(self, entry: Entry, num_chars: int = 0) -> None:
        """Never blocks, and never raises. num_chars: of its prompt and texts."""
        if self._closing.is_set() or not self._has_room(num_chars):
            if not self._closing.is_set():
                self._fail("its disk is slow, or full")
            self._metrics.drop()
            return
        self._waiting.append(Waiting(entry, num_chars))
        self._chars_added += num_chars
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def _has_room(self, num_chars: int) -> bool:
        waiting_chars = self._chars_added - self._chars_taken
        few = len(self._waiting) < MAX_WAITING and waiting_chars + num_chars <= MAX_WAITING_CHARS
        return few or not self._waiting

    def close(self, within_s: float = 5.0) -> None:
        """Write what waits, and end. What cannot be written in that time is dropped."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(within_s)
        left = len(self._waiting) + self._num_lines
        if left:
            self._metrics.drop(left)
            log.error("the journal lacks its last %d records", left)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._closing.wait(GATHER_S)
            while self._waiting or self._num_lines:
                if not self._write():
                    if self._closing.is_set():
                        return
                    self._closing.wait(RETRY_S)
            self._recover()
            if self._closing.is_set():
                self._files.close()
                self._end()
                return

    def _write(self) -> bool:
        """One piece. False: the disk does not take it."""
        if not self._num_lines:
            self._lines, self._num_lines = self._piece()
        try:
            if self._lines:
                self._files.append(self._lines)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        self._metrics.written.inc(self._num_lines)
        self._lines, self._num_lines = b"", 0
        return True

    def _piece(self) -> tuple[bytes, int]:
        """Lines for one write, and how many."""
        lines: list[bytes] = []
        num_bytes = num_since = 0
        while self._waiting and num_bytes < PIECE_BYTES:
            one = self._waiting.popleft()
            self._chars_taken += one.num_chars
            line = self._line(one.entry)
            if line:
                lines.append(line)
                num_bytes += len(line)
            num_since += len(line)
            if num_since > AT_A_TIME_BYTES:
                num_since = 0
                time.sleep(0)
        return b"".join(lines), len(lines)

    def _line(self, entry: Entry) -> bytes:
        """Empty where it cannot be made, which is a fault of ours, and none of the records after it."""
        try:
            return self._make(entry) + b"\n"
        except Exception:
            log.exception("request %s is not in the journal", entry.id)
            self._metrics.drop()
            return b""

    def _fail(self, why: str) -> None:
        """Said once, until it goes on."""
        if self._dropped_before is None:
            self._dropped_before = self._metrics.num_dropped
            log.error(
                "the journal cannot be written: %s; records are kept in memory while there is room, and then"
                " dropped",
                why,
            )

    def _recover(self) -> None:
        """All that waited is written."""
        if self._dropped_before is not None:
            dropped, self._dropped_before = self._metrics.num_dropped - self._dropped_before, None
            log.info("the journal is written again; %d records were dropped meanwhile", dropped)
