"""Removes what the patterns match from the strings of a record: python -m server.journal.redaction

As a process (scrubber.py) it reads the patterns, one line of JSON, then one record per line,
and answers each.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from server.journal.entry import Entry, decode, encode

REDACTED = "[redacted]"


class Redaction:
    """patterns: valid regular expressions. Changes a record, and lists the changed fields in `redacted`."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, entry: Entry) -> Entry:
        found = dict.fromkeys(entry.redacted)
        self._set(entry, "user", entry.user, found)
        for name, value in (entry.request or {}).items():
            entry.request[name] = self._cleaned(value, name, found)  # type: ignore[index]
        for candidate in entry.candidates:
            self._set(candidate, "text", candidate.text, found)
        entry.redacted = list(found)
        return entry

    def _set(self, of: Any, name: str, value: Any, found: dict[str, None]) -> None:
        if (cleaned := self._cleaned(value, name, found)) is not value:
            setattr(of, name, cleaned)

    def _cleaned(self, value: Any, name: str, found: dict[str, None]) -> Any:
        """The redacted value, or the same object if nothing matches. Names in objects may come from
        a client too."""
        if isinstance(value, str):
            text = value
            for pattern in self._patterns:
                text = pattern.sub(REDACTED, text)
            if text == value:
                return value
            found[name] = None
            return text
        if isinstance(value, list) and value and not isinstance(value[0], int):
            return [self._cleaned(one, name, found) for one in value]
        if isinstance(value, dict):
            return {
                self._cleaned(key, name, found): self._cleaned(one, name, found) for key, one in value.items()
            }
        return value


def main() -> None:
    lines, out = sys.stdin.buffer, sys.stdout.buffer
    redact = Redaction(json.loads(lines.readline()))
    for line in lines:
        out.write(encode(redact(decode(line))) + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
