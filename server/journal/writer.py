"""Writes records from a thread: adding one never waits for the disk.

The number of waiting records is limited. If the disk is full or too slow, records are kept up to the limit,
and dropped and counted beyond it; the log says so once, and once more when it is over.
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

# Limits of what may wait: records, and characters of their prompts and texts.
MAX_WAITING, MAX_WAITING_CHARS = 20_000, 32 * 1024 * 1024
# Each time that the thread needs the interpreter, the event loop has to give it up, which takes long on a
# busy machine. So it writes rarely, and much at once.
GATHER_S = 0.25  # seconds to wait for more records, to write them together; a kill -9 may lose as much
RETRY_S = 1.0  # seconds after a failed write
PIECE_BYTES = 256 * 1024  # of one write
# Records that are made into lines at a time, in about a millisecond; between these, the event loop can run.
AT_A_TIME_BYTES = 128 * 1024


@dataclass(slots=True)
class Waiting:
    """num_chars: of its prompt and texts."""

    entry: Entry
    num_chars: int


class Writer:
    """line: makes the line of a record, without its end; called in the thread, which starts with the first
    record. end: called when there are no more."""

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
        # Only one thread changes each of these, so that neither waits for the other.
        self._chars_added = self._chars_taken = 0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lines, self._num_lines = b"", 0  # the failed write, which is tried again
        # Records dropped when it began to fail; None: it does not fail
        self._dropped_before: int | None = None

    def add(self, entry: Entry, num_chars: int = 0) -> None:
        """Add a record. Never blocks or raises. num_chars: of its prompt and texts."""
        if self._closing.is_set() or not self._has_room(num_chars):
            if not self._closing.is_set():
                self._fail("the disk is slow or full")
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
        """Write the waiting records, and end. Records that cannot be written in that time are dropped."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(within_s)
        left = len(self._waiting) + self._num_lines
        if left:
            self._metrics.drop(left)
            log.error("the last %d records are missing in the journal", left)

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
        """Write one piece. False: the disk does not take it."""
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
        """(lines for one write, their number)."""
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
        """The line of a record; empty if it cannot be made. That is a bug of ours, which must not affect
        later records."""
        try:
            return self._make(entry) + b"\n"
        except Exception:
            log.exception("request %s could not be recorded in the journal", entry.id)
            self._metrics.drop()
            return b""

    def _fail(self, why: str) -> None:
        """Log the failure once, until writing works again."""
        if self._dropped_before is None:
            self._dropped_before = self._metrics.num_dropped
            log.error(
                "the journal cannot be written: %s; records are kept in memory until it is full, and then"
                " dropped",
                why,
            )

    def _recover(self) -> None:
        """All waiting records are written."""
        if self._dropped_before is not None:
            dropped, self._dropped_before = self._metrics.num_dropped - self._dropped_before, None
            log.info("the journal can be written again; %d records were dropped meanwhile", dropped)
