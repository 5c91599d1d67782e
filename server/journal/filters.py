"""Filters of journal records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.errors import ConfigurationError
from server.journal.entry import Entry

AGO = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
STATUS = re.compile(r"[1-5](\d\d|xx)|ok|error")
CUT_OFF = "cut_off"
FINISHES = ("stop", "length", "given_up", CUT_OFF)


@dataclass(frozen=True, slots=True)
class Filter:
    """since, until: as Entry.time; since is included. id, trace: the first characters. status: 429, 4xx, ok
    or error. model: or adapter. finish: of one of its candidates. Empty: no filter."""

    since: str = ""
    until: str = ""
    key: str = ""
    model: str = ""
    status: str = ""
    finish: str = ""
    id: str = ""
    faults: bool = False
    trace: str = ""

    def __post_init__(self) -> None:
        if self.status and not STATUS.fullmatch(self.status):
            raise ConfigurationError(
                f"--status is {self.status}; it must be a number, 4xx, 5xx, ok or error."
            )
        if self.finish and self.finish not in FINISHES:
            raise ConfigurationError(f"--finish is {self.finish}; it must be one of {', '.join(FINISHES)}.")

    def takes(self, entry: Entry) -> bool:
        return (
            entry.time >= self.since
            and (not self.until or entry.time < self.until)
            and (not self.key or entry.key == self.key)
            and (not self.model or self.model in (entry.model, entry.adapter))
            and (not self.id or entry.id.startswith(self.id))
            and (not self.trace or entry.trace.startswith(self.trace.lower()))
            and (not self.faults or bool(entry.faults))
            and (not self.status or self._takes_status(entry))
            and (not self.finish or any((one.finish or CUT_OFF) == self.finish for one in entry.candidates))
        )

    def _takes_status(self, entry: Entry) -> bool:
        if self.status == "error":
            return entry.is_error
        if self.status == "ok":
            return not entry.is_error and not entry.gone
        text = str(entry.status)
        return text == self.status or (self.status.endswith("xx") and text[0] == self.status[0])


def time_of(text: str | None, option: str, now: datetime | None = None) -> str:
    """A day, a day with a time, or an age (90s, 30m, 2h, 7d) as Entry.time. UTC, unless it says otherwise.
    Raises ConfigurationError."""
    if not text:
        return ""
    if match := AGO.fullmatch(text):
        when = (now or datetime.now(UTC)) - timedelta(**{UNITS[match[2]]: int(match[1])})
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigurationError(
                f"{option} is {text}; write a day (2026-11-27), a time (2026-11-27T13:05) or an age (2h)."
            ) from None
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"
