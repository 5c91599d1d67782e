"""Faults that end a reply too early or too late: the connection is closed or reset in the middle."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from twin.faults.fault import Ending, Fault, Head, Part, Steps, Tokens, Wait, after

Bytes = Annotated[int, Field(ge=1, le=1_000_000)]

SIGN = "☃".encode()  # three bytes
TEXT = b'"text":"'
# Seconds before a reset for sent data to leave: the kernel discards what it still holds.
FLUSH = Wait(0.02)


class CutBeforeHeaders(Fault):
    """Closes the connection without a byte of the reply."""

    name = "cut_before_headers"
    example = "cut_before_headers"

    def head(self, head: Head) -> Steps:
        yield Ending.CLOSE


class CutAfterHeaders(Fault):
    """Closes the connection after the headers, before a byte of the body."""

    name = "cut_after_headers"
    example = "cut_after_headers"

    def head(self, head: Head) -> Steps:
        yield head.wire
        yield Ending.CLOSE


class CutAfterTokens(Fault):
    """Closes the connection after this many tokens, between two frames; a whole reply in the middle
    of its body."""

    name = "cut_after_tokens"
    example = "cut_after_tokens=5"

    after: Tokens = after()

    def part(self, part: Part) -> Steps:
        if part.comes_after(self.after):
            if part.is_whole:
                yield part.halves()[0]
            yield Ending.CLOSE
        yield part.wire


class CutInFrame(Fault):
    """Closes the connection in the middle of the frame after this many tokens, or of a whole reply's body."""

    name = "cut_in_frame"
    example = "cut_in_frame=5"

    after: Tokens = after()

    def part(self, part: Part) -> Steps:
        if part.comes_after(self.after):
            yield part.halves()[0]
            yield Ending.CLOSE
        yield part.wire


class CutInCharacter(Fault):
    """Closes the connection after the first of three bytes of a ☃ that it inserts into the text after this
    many tokens, or into a whole reply's first text; if there is no text, in the middle."""

    name = "cut_in_character"
    example = "cut_in_character=5"

    after: Tokens = after()

    def part(self, part: Part) -> Steps:
        if part.comes_after(self.after):
            wire = part.of(part.data.replace(TEXT, TEXT + SIGN, 1)).wire
            yield wire[: wire.index(SIGN) + 1] if TEXT in part.data else part.halves()[0]
            yield Ending.CLOSE
        yield part.wire


class Reset(Fault):
    """Resets the connection (RST) before the first byte, or after this many tokens; a whole reply in the
    middle of its body."""

    name = "reset"
    example = "reset=5"

    after: Tokens = after()

    def head(self, head: Head) -> Steps:
        if not self.after:
            yield Ending.RESET
        yield head.wire

    def part(self, part: Part) -> Steps:
        if part.comes_after(self.after):
            if part.is_whole:
                yield part.halves()[0]
            yield FLUSH
            yield Ending.RESET
        yield part.wire


class ShortBody(Fault):
    """Announces more bytes than it sends, then closes: in the content-length of a whole reply, in the size of
    a stream's last chunk."""

    name = "short_body"
    example = "short_body=10"

    missing: Bytes = Field(default=10, description="bytes that are not sent")

    def head(self, head: Head) -> Steps:
        length = head.get(b"content-length")
        yield head.having(b"content-length", b"%d" % (int(length) + self.missing) if length else b"").wire

    def end(self, last: bytes) -> Steps:
        if last:
            yield b"%x\r\n" % self.missing
        yield Ending.CLOSE


class LongBody(Fault):
    """Sends more bytes than announced after the end of the body, and leaves the connection open."""

    name = "long_body"
    example = "long_body=10"

    extra: Bytes = Field(default=10, description="additional bytes, each an x")

    def end(self, last: bytes) -> Steps:
        yield last
        yield b"x" * self.extra
