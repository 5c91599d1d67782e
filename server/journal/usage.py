"""What each key has used of each model on each day, for billing.

It counts what `usage` in the replies says: each prompt once, and the tokens of every candidate, also of
best_of candidates that were not returned. Tokens generated for a request that failed, or whose client left,
count too. A request counts on the day of its arrival, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

from server.journal.entry import Entry


class Place(NamedTuple):
    """model: the requested model or adapter."""

    day: str
    key: str
    model: str


@dataclass(slots=True)
class Sum:
    """errors: requests answered with an error. cached_tokens: prompt tokens from the prefix cache, which are
    included in prompt_tokens."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, entry: Entry) -> None:
        self.requests += 1
        self.errors += entry.is_error
        self.prompt_tokens += entry.prompt_tokens
        self.cached_tokens += entry.cached_tokens or 0
        self.completion_tokens += entry.completion_tokens

    def __iter__(self) -> Iterator[int]:
        return iter(astuple(self))


COLUMNS = (*Place._fields, *(one.name for one in fields(Sum)))


def usage_of(entries: Iterable[Entry]) -> dict[Place, Sum]:
    """By day, key and model, in this order."""
    found: dict[Place, Sum] = {}
    for entry in entries:
        place = Place(entry.day, entry.key, entry.adapter or entry.model)
        if (total := found.get(place)) is None:
            total = found[place] = Sum()
        total.add(entry)
    return dict(sorted(found.items()))
