"""Redaction in a process of its own, so that a slow pattern delays nothing else.

Python's regular expressions hold the interpreter while they match, and some are slow on some texts, such as a
pattern for addresses on a long line of letters. If redaction of a record takes too long, its strings are left
out, and the process is ended. The process also ends when this one does, whose end it notices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import subprocess
import sys
import time
from collections.abc import Sequence

from server.journal.entry import Entry, encode

log = logging.getLogger(__name__)

LIMIT_S = 1.0  # for a record
START_S = 30.0  # for a process's first record, which includes its start
MODULE = "server.journal.redaction"
WITHHELD = "withheld"  # in `redacted`, if the client's strings are left out


class Scrubber:
    """Makes lines from records, without what the patterns match. Call it from one thread only."""

    def __init__(self, patterns: Sequence[str], limit_s: float = LIMIT_S) -> None:
        self._patterns = patterns
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, entry: Entry) -> bytes:
        """The line of the record, without its end."""
        if not (entry.user or entry.request or any(one.text for one in entry.candidates)):
            return encode(entry)
        began = time.monotonic()
        with contextlib.suppress(OSError):
            if (line := self._ask(encode(entry))) is not None:
                return line
        self.close()
        log.error(
            "request %s: journal.redact took longer than %.1f s, so the journal leaves out what the client"
            " and the model said",
            *(entry.id, time.monotonic() - began),
        )
        entry.request, entry.user, entry.redacted = None, "", [WITHHELD]
        for candidate in entry.candidates:
            candidate.text = candidate.token_ids = None
        return encode(entry)

    def close(self) -> None:
        """End the process; it starts again for another record."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()

    def _ask(self, line: bytes) -> bytes | None:
        """None: the process has not answered in time, or has ended."""
        end = time.monotonic() + (self._limit_s if self._process is not None else START_S)
        process = self._process = self._process or self._start()
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        process.stdin.write(line + b"\n")  # the process reads all input before it does anything
        said = bytearray()
        while not said.endswith(b"\n"):
            left_s = max(0.0, end - time.monotonic())
            if not select.select([process.stdout], [], [], left_s)[0]:
                return None
            if not (part := process.stdout.read(1 << 16)):
                return None
            said += part
        return bytes(said[:-1])

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the server
        )
        assert process.stdin is not None, "a pipe"
        process.stdin.write(json.dumps(list(self._patterns)).encode() + b"\n")
        return process
