"""What each key used in the last minute, and its running requests, in memory shared by all processes.

Each process notes its running requests in a place of its own, which is cleared when the process has ended.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from server.access.memory import Memory

WINDOW_S = 60.0
# Amounts added within the same second share one entry, which expires with the last of them: so a window needs
# this many places, however much is added. A place is free again when it has expired.
NUM_PLACES = 64
MOST_PROCESSES = 64  # the maximum of `workers` in models.yaml
ELSEWHERE = MOST_PROCESSES - 1  # this place holds what runs on the other front ends of a cluster
NAME_BYTES = 104  # names have at most 100 characters, ASCII

COUNT = struct.Struct("Q")  # number of tallies, at the start of the file
HEAD_BYTES = 16
END, AMOUNT = struct.Struct("d"), struct.Struct("q")
ENDS, AMOUNTS = struct.Struct(f"{NUM_PLACES}d"), struct.Struct(f"{NUM_PLACES}q")
SUM = struct.Struct("ddq")  # expiry of the sum, end of the last place, the sum
RUNNING = struct.Struct("I")
ALL_RUNNING = struct.Struct(f"{MOST_PROCESSES}I")

# A tally: name, mean seconds of a request, running requests by process, window of requests, window of tokens.
SECONDS_AT = NAME_BYTES
RUNNING_AT = SECONDS_AT + END.size
REQUESTS_AT = RUNNING_AT + ALL_RUNNING.size
TOKENS_AT = REQUESTS_AT + SUM.size + ENDS.size + AMOUNTS.size
TALLY_BYTES = TOKENS_AT + SUM.size + ENDS.size + AMOUNTS.size

ROOM = 64  # number of tallies at first; doubled each time that they are full


class Window:
    """The sum of what was added in the last 60 seconds. `now` is time.monotonic, which all processes of a
    machine share. Writing needs the lock.

    The sum is stored with the time at which its first place expires. Then it is computed again, so that a
    value left behind by a killed process is soon corrected.
    """

    def __init__(self, memory: Memory, offset: int) -> None:
        self._memory = memory
        self._at = offset
        self._ends_at = offset + SUM.size
        self._amounts_at = offset + SUM.size + ENDS.size

    def total(self, now: float) -> int:
        holds_until, _, total = self._sum()
        return total if now < holds_until else sum(amount for _, amount in self._counting(now))

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        return max(0.0, self._sum()[1] - now)

    def wait_s(self, limit: int, now: float) -> int:
        """Whole seconds, 1 to 60, until the sum is below the limit if nothing is added."""
        counting = sorted(self._counting(now))
        left = sum(amount for _, amount in counting)
        for end, amount in counting:
            left -= amount
            if left < limit:
                wait_s = math.ceil(end - now)
                return min(wait_s if now + wait_s >= end else wait_s + 1, 60)  # floats round
        return 1

    def add(self, amount: int, now: float) -> None:
        holds_until, _, total = self._sum()
        place, last_end = int(now) % NUM_PLACES, now + WINDOW_S
        if now >= holds_until:
            counting = self._counting(now)
            total = sum(amount for _, amount in counting)
            holds_until = min((end for end, _ in counting), default=last_end)
        end, before = self._place(place)
        self._write(place, amount + (before if end > now else 0), last_end)
        SUM.pack_into(self._memory.bytes, self._at, holds_until, last_end, total + amount)

    def take_back(self, amount: int, added: float, now: float) -> None:
        """Take back a part of what was added at that time, if it still counts."""
        holds_until, last_end, total = self._sum()
        place = int(added) % NUM_PLACES
        end, before = self._place(place)
        if now < end < added + WINDOW_S + 2:  # otherwise the place belongs to another second by now
            amount = min(amount, before)
            self._write(place, before - amount, end)
            SUM.pack_into(self._memory.bytes, self._at, holds_until, last_end, total - amount)

    def places(self, now: float) -> dict[int, tuple[float, int]]:
        """Place -> (end, amount)."""
        found = ((place, self._place(place)) for place in range(NUM_PLACES))
        return {place: one for place, one in found if one[0] > now and one[1]}

    def change(self, place: int, amount: int, end: float, now: float) -> None:
        """Add the amount (or subtract it) in this place, which counts until `end`. Needs the lock."""
        until, before = self._place(place)
        left = max(amount + (before if until > now else 0), 0)
        self._write(place, left, max(until, end))
        # The sum expires, so that it is computed again.
        SUM.pack_into(self._memory.bytes, self._at, 0.0, max(self._sum()[1], end), 0)

    def _sum(self) -> tuple[float, float, int]:
        """(expiry of the sum, end of the last place, the sum)."""
        return SUM.unpack_from(self._memory.bytes, self._at)

    def _counting(self, now: float) -> list[tuple[float, int]]:
        """(end, amount) of each place that counts."""
        memory = self._memory.bytes
        ends, amounts = ENDS.unpack_from(memory, self._ends_at), AMOUNTS.unpack_from(memory, self._amounts_at)
        return [one for one in zip(ends, amounts, strict=True) if one[0] > now]

    def _place(self, place: int) -> tuple[float, int]:
        (end,) = END.unpack_from(self._memory.bytes, self._ends_at + END.size * place)
        (amount,) = AMOUNT.unpack_from(self._memory.bytes, self._amounts_at + AMOUNT.size * place)
        return end, amount

    def _write(self, place: int, amount: int, end: float) -> None:
        AMOUNT.pack_into(self._memory.bytes, self._amounts_at + AMOUNT.size * place, amount)
        END.pack_into(self._memory.bytes, self._ends_at + END.size * place, end)


class Tally:
    """The tally of one key. process: the number of this process; only this process writes the place of its
    running requests."""

    def __init__(self, memory: Memory, number: int, process: int) -> None:
        at = HEAD_BYTES + number * TALLY_BYTES
        self.requests = Window(memory, at + REQUESTS_AT)
        self.tokens = Window(memory, at + TOKENS_AT)
        self._memory = memory
        self._running_at = at + RUNNING_AT
        self._mine_at = at + RUNNING_AT + process * RUNNING.size
        self._seconds_at = at + SECONDS_AT

    @property
    def running(self) -> int:
        """Running requests, in all processes."""
        return sum(ALL_RUNNING.unpack_from(self._memory.bytes, self._running_at))

    @property
    def running_here(self) -> int:
        """Running requests, in the processes of this machine."""
        return self.running - self._others()

    def note_elsewhere(self, running: int) -> None:
        """Set the number of requests that run on the other front ends of a cluster."""
        RUNNING.pack_into(self._memory.bytes, self._running_at + ELSEWHERE * RUNNING.size, running)

    def begin(self) -> None:
        """A request begins in this process."""
        self._add(1)

    def end(self, seconds: float) -> None:
        """A request of this process has ended, after this time."""
        self._add(-1)
        mean_s = self.mean_s
        END.pack_into(
            self._memory.bytes, self._seconds_at, mean_s + (seconds - mean_s) * (0.2 if mean_s else 1)
        )

    @property
    def mean_s(self) -> float:
        """Mean duration of a request, with more weight on recent ones; 0: unknown."""
        (seconds,) = END.unpack_from(self._memory.bytes, self._seconds_at)
        return float(seconds)

    def _others(self) -> int:
        (running,) = RUNNING.unpack_from(self._memory.bytes, self._running_at + ELSEWHERE * RUNNING.size)
        return int(running)

    def _add(self, change: int) -> None:
        (mine,) = RUNNING.unpack_from(self._memory.bytes, self._mine_at)
        RUNNING.pack_into(self._memory.bytes, self._mine_at, max(mine + change, 0))


class Tallies:
    """The tallies of all keys. file: shared by all processes of the server; None: there is only one process.
    process: the number of this one, below MOST_PROCESSES."""

    def __init__(self, file: Path | None = None, process: int = 0) -> None:
        assert 0 <= process < MOST_PROCESSES
        self._memory = Memory(file, HEAD_BYTES + ROOM * TALLY_BYTES)
        self._process = process
        self._known: dict[str, Tally] = {}
        self._num_seen = 0  # tallies of the memory that this process knows

    def locked(self) -> Memory:
        """A context manager for reading and then writing, like Memory."""
        return self._memory

    def of(self, name: str) -> Tally:
        """The tally of the key with that name, made if missing. Needs the lock. Raises OSError if there is no
        room for another one."""
        tally = self._known.get(name)
        if tally is None:
            self._look()
            tally = self._known.get(name) or self._make(name)
        return tally

    def known(self) -> dict[str, Tally]:
        """All tallies, by the keys' names. Needs the lock."""
        self._look()
        return {**self._known}

    def forget(self, process: int) -> None:
        """A process has ended, and its running requests with it."""
        with self._memory as is_locked:
            if is_locked:
                self._look()
        for number in range(self._num_seen):
            at = HEAD_BYTES + number * TALLY_BYTES + RUNNING_AT + process * RUNNING.size
            RUNNING.pack_into(self._memory.bytes, at, 0)

    def _look(self) -> None:
        """Learn of the tallies that other processes have made."""
        (count,) = COUNT.unpack_from(self._memory.bytes, 0)
        self._memory.grow(HEAD_BYTES + count * TALLY_BYTES)
        for number in range(self._num_seen, count):
            at = HEAD_BYTES + number * TALLY_BYTES
            name = bytes(self._memory.bytes[at : at + NAME_BYTES]).rstrip(b"\0").decode()
            self._known[name] = Tally(self._memory, number, self._process)
        self._num_seen = count

    def _make(self, name: str) -> Tally:
        number = self._num_seen
        at = HEAD_BYTES + number * TALLY_BYTES
        if at + TALLY_BYTES > len(self._memory.bytes):
            self._memory.grow(HEAD_BYTES + 2 * number * TALLY_BYTES)
        self._memory.bytes[at : at + NAME_BYTES] = name.encode().ljust(NAME_BYTES, b"\0")
        self._num_seen = number + 1
        COUNT.pack_into(self._memory.bytes, 0, self._num_seen)
        tally = self._known[name] = Tally(self._memory, number, self._process)
        return tally
