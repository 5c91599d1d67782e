"""Faults that slow down a complete and correct reply."""

from __future__ import annotations

from pydantic import Field

from twin.faults.fault import Fault, Head, Part, Seconds, Steps, Tokens, Wait, after


class Stall(Fault):
    """Sends nothing for a time before the first token, headers included, or after this many tokens; for a
    whole reply, before it or in the middle of its body."""

    name = "stall"
    example = "stall=2s after=3"

    seconds: Seconds = Field(description="how long")
    after: Tokens = after()

    def head(self, head: Head) -> Steps:
        if not self.after:
            yield Wait(self.seconds)
        yield head.wire

    def part(self, part: Part) -> Steps:
        if not self.after or not part.comes_after(self.after):
            yield part.wire
            return
        first, rest = part.halves() if part.is_whole else (b"", part.wire)
        yield first
        yield Wait(self.seconds)
        yield rest


class SlowHeaders(Fault):
    """Sends the status line and the headers byte by byte, all of them within this time, and the
    body at once."""

    name = "slow_headers"
    example = "slow_headers=5s"

    seconds: Seconds = Field(description="for all of them")

    def head(self, head: Head) -> Steps:
        yield from _dripped(head.wire, self.seconds / len(head.wire))


class OneByte(Fault):
    """Sends the whole reply with one byte per write."""

    name = "one_byte"
    example = "one_byte=2ms"

    every: Seconds = Field(default=0, description="pause after each byte")

    def head(self, head: Head) -> Steps:
        return _dripped(head.wire, self.every)

    def part(self, part: Part) -> Steps:
        return _dripped(part.wire, self.every)

    def end(self, last: bytes) -> Steps:
        return _dripped(last, self.every)


def _dripped(wire: bytes, every_s: float) -> Steps:
    for number in range(len(wire)):
        yield wire[number : number + 1]
        yield Wait(every_s)
