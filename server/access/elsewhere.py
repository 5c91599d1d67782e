"""Usage of the API keys on the other front ends of a cluster, added to this front end's tallies.

Each front end reports the usage of its own requests every second, and receives the usage of the others. Each
report is complete, so that a lost one is corrected by the next. Reports are one or two seconds old: for that
long, a key can use its remaining limit on each front end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.access.tallies import NUM_PLACES, WINDOW_S, Tallies, Window

# (amount, seconds for which it still counts).
Amounts = list[tuple[float, int]]


@dataclass(slots=True)
class Used:
    """Usage of one key. running: requests that run now."""

    requests: Amounts = field(default_factory=list)
    tokens: Amounts = field(default_factory=list)
    running: int = 0


class Elsewhere:
    """The usage reported by one other front end, which is added to these tallies."""

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._heard_at = -math.inf
        # By key, window and place in the window: (end, amount) of what the other front ends used.
        self._theirs: defaultdict[tuple[str, str], dict[int, tuple[float, int]]] = defaultdict(dict)

    def mine(self, now: float) -> dict[str, Used]:
        """The usage on this front end, by key. now: time.monotonic."""
        with self._tallies.locked() as is_locked:
            tallies = self._tallies.known() if is_locked else {}
            if now - self._heard_at > WINDOW_S:  # what runs there has no end time of its own
                for tally in tallies.values():
                    tally.note_elsewhere(0)
        return {
            name: Used(
                self._own(tally.requests, self._theirs[name, "requests"], now),
                self._own(tally.tokens, self._theirs[name, "tokens"], now),
                tally.running_here,
            )
            for name, tally in tallies.items()
        }

    def take(self, others: Mapping[str, Used], now: float) -> None:
        """Replace the other front ends' usage by this report. Without another report it expires
        after a minute."""
        self._heard_at = now
        with self._tallies.locked() as is_locked:
            if not is_locked:
                return
            for name in {*others, *(name for name, _ in self._theirs)}:
                used, tally = others.get(name, Used()), self._tallies.of(name)
                self._put(tally.requests, (name, "requests"), used.requests, now)
                self._put(tally.tokens, (name, "tokens"), used.tokens, now)
                tally.note_elsewhere(used.running)

    @staticmethod
    def _own(window: Window, theirs: Mapping[int, tuple[float, int]], now: float) -> Amounts:
        found: Amounts = []
        for place, (end, amount) in window.places(now).items():
            until, its = theirs.get(place, (0.0, 0))
            own = amount - (its if until > now else 0)
            if own > 0:
                found.append((round(end - now, 2), own))
        return found

    def _put(self, window: Window, name: tuple[str, str], amounts: Amounts, now: float) -> None:
        wanted: dict[int, tuple[float, int]] = {}
        for left_s, amount in amounts:
            end = now + min(left_s, WINDOW_S)
            place = int(end - WINDOW_S) % NUM_PLACES
            until, before = wanted.get(place, (0.0, 0))
            wanted[place] = max(until, end), before + amount
        theirs = {place: one for place, one in self._theirs[name].items() if one[0] > now}
        for place in wanted.keys() | theirs.keys():
            end, amount = wanted.get(place, (now, 0))
            _, before = theirs.get(place, (0.0, 0))
            if amount != before:
                window.change(place, amount - before, end, now)
        self._theirs[name] = wanted
