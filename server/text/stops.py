"""Finds where a text has to stop."""

from __future__ import annotations


class StopMatcher:
    """Finds the stop sequence that is complete first, wherever the tokens split it; of several, the longest.

    include: the text includes the sequence; otherwise it ends before it, and text that may be the start of a
    sequence is held back until it is known not to be.
    """

    __slots__ = ("_beginnings", "_held", "_include", "_longest", "_seen", "_stops")

    def __init__(self, stops: tuple[str, ...], *, include: bool) -> None:
        self._stops = stops
        self._include = include
        self._beginnings = {stop[0] for stop in stops}
        self._longest = max(map(len, stops), default=0)
        self._seen = ""  # the end of the text so far, as long as a match may need
        self._held = 0  # how many of its last characters are held back

    def push(self, text: str, *, active: bool = True) -> tuple[str, bool]:
        """(text to give out now, whether it ends here). Not active: nothing stops."""
        if not self._stops:
            return text, False
        window = self._seen + text
        for character in self._beginnings:
            if character in window:
                break
        else:  # nothing can begin in it, and nothing is held
            self._seen = ""
            return text, False
        given = len(self._seen) - self._held
        match = self._first_match(window, len(self._seen)) if active else None
        if match is not None:
            start, end = match
            return window[given : max(given, end if self._include else start)], True
        self._held = 0 if self._include else self._possible_start(window)
        keep = max(self._longest - 1, self._held)
        self._seen = window[-keep:] if keep else ""
        return window[given : len(window) - self._held], False

    def finish(self) -> str:
        """The held-back text, once nothing more comes."""
        held = self._seen[len(self._seen) - self._held :]
        self._held = 0
        return held

    def _first_match(self, window: str, old: int) -> tuple[int, int] | None:
        ends = []
        for stop in self._stops:
            start = window.find(stop, max(0, old - len(stop) + 1))
            if start >= 0:
                ends.append((start + len(stop), start))
        if not ends:
            return None
        end, start = min(ends)
        return start, end

    def _possible_start(self, window: str) -> int:
        for size in range(min(self._longest - 1, len(window)), 0, -1):
            if window[-size] not in self._beginnings:
                continue
            if any(len(stop) > size and window.endswith(stop[:size]) for stop in self._stops):
                return size
        return 0
