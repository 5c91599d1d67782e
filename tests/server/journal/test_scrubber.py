"""Redaction beside the server: what it finds is gone, and what takes too long takes nobody's time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import cast

import pytest

from server.journal.entry import Candidate, Entry, decode
from server.journal.scrubber import WITHHELD, Scrubber

SLOW = r"(?:x+x+)+y"  # it takes twice as long for each x


def entry(prompt: str) -> Entry:
    candidates = [Candidate(3, "stop", 0, None, "told a@b.c")]
    request = {"prompt": prompt}
    return Entry(
        "id", "2026-11-27T10:00:00.000Z", "anna", "m", 200, 0.1, candidates=candidates, request=request
    )


@pytest.fixture
def scrubber() -> Iterator[Scrubber]:
    scrubber = Scrubber([r"\S+@\S+", SLOW], limit_s=3.0)
    yield scrubber
    scrubber.close()


def process_of(scrubber: Scrubber) -> subprocess.Popen[bytes]:
    return cast("subprocess.Popen[bytes]", scrubber._process)


def test_lines_are_redacted(scrubber: Scrubber) -> None:
    """By one process for all of them, however long they are."""
    for prompt in ("ask a@b.c\nnow", "ü " * 100_000, "x@y"):
        found = decode(scrubber(entry(prompt)))
        assert found.request == {"prompt": prompt.replace("a@b.c", "[redacted]").replace("x@y", "[redacted]")}
        assert found.candidates[0].text == "told [redacted]"
    assert process_of(scrubber).poll() is None


def test_a_record_that_takes_too_long_is_kept_without_its_strings(
    scrubber: Scrubber, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, as the log does; the next one is as any other."""
    scrubber(entry("fast"))
    before, began = process_of(scrubber), time.monotonic()
    found = decode(scrubber(entry("x" * 60)))
    assert time.monotonic() - began < 30
    assert (found.request, found.redacted, found.candidates[0].text) == (None, [WITHHELD], None)
    assert (found.candidates[0].tokens, found.key) == (3, "anna")
    assert "request id: journal.redact took longer than" in caplog.text
    assert before.poll() is not None
    assert decode(scrubber(entry("fast"))).request == {"prompt": "fast"}


def test_a_process_that_was_killed_is_started_again(scrubber: Scrubber) -> None:
    """The record that finds it dead is kept without its strings."""
    scrubber(entry("fast"))
    process_of(scrubber).kill()
    process_of(scrubber).wait()
    assert decode(scrubber(entry("fast"))).redacted == [WITHHELD]
    assert decode(scrubber(entry("fast"))).request == {"prompt": "fast"}


def test_a_record_without_strings_needs_no_process(scrubber: Scrubber) -> None:
    """As all are where neither prompts nor texts are kept."""
    scrubber(Entry("id", "2026-11-27T10:00:00.000Z", "anna", "m", 200, 0.1))
    assert scrubber._process is None


def test_it_ends_with_the_pipe(scrubber: Scrubber) -> None:
    """So also with a server that was killed."""
    scrubber(entry("fast"))
    process = process_of(scrubber)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
