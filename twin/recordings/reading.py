"""Reads recordings, and finds the one for a request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ConfigurationError, NotFound
from twin.recordings.exchange import Asked, Exchange, from_record, json_of, meaning_of, shown
from twin.recordings.redaction import GONE, digest_of, without_keys

MOST_DIFFERENCES = 6


class NoRecording(NotFound):
    reason = "NO_RECORDING"


@dataclass(frozen=True, slots=True)
class Recording:
    file: str
    digest: str
    exchange: Exchange


class Recordings:
    """If a request was recorded several times, each repetition gets the next recording, and then
    always the last."""

    def __init__(self, recordings: list[Recording]) -> None:
        self._recordings = recordings
        self._by_digest: dict[str, list[Recording]] = {}
        for recording in recordings:
            self._by_digest.setdefault(recording.digest, []).append(recording)
        self._times: Counter[str] = Counter()

    def find(self, asked: Asked) -> Exchange:
        """Raises NoRecording, which names the nearest one."""
        digest = digest_of(asked)
        if digest not in self._by_digest:
            raise self._missing(asked)
        found = self._by_digest[digest]
        number = min(self._times[digest], len(found) - 1)
        self._times[digest] += 1
        return found[number].exchange

    def _missing(self, asked: Asked) -> NoRecording:
        asked = without_keys(asked)
        nearest = min(self._recordings, key=lambda one: _distance(asked, one.exchange.asked))
        found = list(differences(asked, nearest.exchange.asked))
        more = f"; and {len(found) - MOST_DIFFERENCES} more" if len(found) > MOST_DIFFERENCES else ""
        return NoRecording(
            f"no recording fits this request; the nearest is {nearest.file}, where"
            f" {'; '.join(found[:MOST_DIFFERENCES])}{more}",
            metadata={"nearest": nearest.file},
        )


def read_recordings(folder: Path) -> list[Recording]:
    """The recordings in the order of their names. Raises ConfigurationError, which names the file."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigurationError(
            f"{folder} has no recordings; `verbatim watch --upstream URL --record DIR` makes some."
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Recording:
    try:
        digest, exchange = from_record(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}.") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not a recording: {error}.") from None
    return Recording(file.name, digest, exchange)


def differences(asked: Asked, recorded: Asked) -> Iterator[str]:
    """How the recorded request differs. asked: without keys, as the recorded one."""
    for name, here, there in (
        ("the method", asked.method, recorded.method),
        ("the path", asked.path, recorded.path),
        ("the query", asked.query, recorded.query),
    ):
        if here != there:
            yield f"{name} is {shown(there)} there and {shown(here)} here"
    here, there = json_of(asked.body), json_of(recorded.body)
    if isinstance(here, dict) and isinstance(there, dict):
        found = list(_fields(here, there))
        redacted = [name for name in here if there.get(name) == GONE != here[name]]
        yield from found or [f"{name} is redacted, and differs" for name in redacted]
    elif asked.body != recorded.body:
        bodies = [one.body.decode("utf-8", "replace") for one in (recorded, asked)]
        yield f"the body is {shown(bodies[0])} there and {shown(bodies[1])} here"


def _fields(here: dict[str, Any], there: dict[str, Any]) -> Iterator[str]:
    for name in there | here:
        if name not in there:
            yield f"{name} is not set there and {shown(here[name])} here"
        elif name not in here:
            yield f"{name} is {shown(there[name])} there and not set here"
        elif meaning_of(here[name]) != meaning_of(there[name]) and there[name] != GONE:
            yield f"{name} is {shown(there[name])} there and {shown(here[name])} here"


def _distance(asked: Asked, recorded: Asked) -> tuple[bool, bool, int]:
    number = len(list(differences(asked, recorded)))
    return asked.path != recorded.path, asked.method != recorded.method, number
