"""One reply on its way to the connection: takes the server's bytes, and returns what a fault
makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.faults.fault import Fault, Head, Part, Step

FRAME_END = b"\n\n"
CHOICE = b'"choices":[{'
LAST_CHUNK = b"0\r\n\r\n"
NO_BODY = (b"204", b"304")

# How a body ends: by chunks, by its length, or with the connection.
Framing = Literal["chunks", "length", "connection"]


class Wire:
    """Splits a reply into its head and its frames, or its head and its body, and has the fault change each.
    has_body: whether the reply may have a body; a reply to HEAD has none.

    The head of a reply that is not a stream waits for the body, whose length it states.
    """

    def __init__(self, fault: Fault, *, has_body: bool) -> None:
        self.is_over = False
        self._fault = fault
        self._has_body = has_body
        self._head: Head | None = None
        self._framing: Framing = "connection"
        self._is_stream = False
        self._waiting = bytearray()  # bytes from the server
        self._body = bytearray()  # the content of its chunks
        self._num_tokens = 0
        self._follows_token = True

    def feed(self, data: bytes) -> Iterator[Step]:
        """The steps for the next bytes that the server writes."""
        self._waiting += data
        if self._head is None:
            head, end, rest = bytes(self._waiting).partition(b"\r\n\r\n")
            if not end:
                return
            self._waiting = bytearray(rest)
            yield from self._begin(head)
        self._unpack()
        if self._is_stream:
            yield from self._frames()
        if self._is_complete():
            yield from self.close()

    def close(self) -> Iterator[Step]:
        """The steps at the end of the body, or of the connection, which the server closes."""
        if self.is_over:
            return
        self.is_over = True
        if self._head is None:
            return
        if not self._is_stream:
            yield from self._whole(self._head)
        yield from self._fault.end(LAST_CHUNK if self._framing == "chunks" else b"")

    def _begin(self, text: bytes) -> Iterator[Step]:
        first, *lines = text.split(b"\r\n")
        pairs = [line.partition(b": ") for line in lines]
        head = self._head = Head(first, tuple((name, value) for name, _, value in pairs))
        self._has_body = self._has_body and first.split(b" ")[1] not in NO_BODY
        if head.get(b"transfer-encoding") == b"chunked":
            self._framing = "chunks"
        elif head.get(b"content-length") or not self._has_body:
            self._framing = "length"
        self._is_stream = head.get(b"content-type").startswith(b"text/event-stream")
        if self._is_stream:
            yield from self._fault.head(head)

    def _unpack(self) -> None:
        """Move the content of complete chunks to the body."""
        if self._framing != "chunks":
            self._body += self._waiting
            self._waiting.clear()
            return
        while b"\r\n" in self._waiting:
            line, _, rest = bytes(self._waiting).partition(b"\r\n")
            size = int(line, 16)
            if not size or len(rest) < size + 2:
                return
            self._body += rest[:size]
            self._waiting = bytearray(rest[size + 2 :])

    def _is_complete(self) -> bool:
        if self._framing == "chunks":
            return self._waiting == LAST_CHUNK
        assert self._head is not None
        length = int(self._head.get(b"content-length") or 0) if self._has_body else 0
        return self._framing == "length" and len(self._body) >= length

    def _frames(self) -> Iterator[Step]:
        assert self._head is not None
        while FRAME_END in self._body:
            data, end, rest = bytes(self._body).partition(FRAME_END)
            self._body = bytearray(rest)
            part = Part(data + end, self._head, False, self._num_tokens, self._follows_token)
            part = part.of(self._fault.edited(part))
            if part.data:
                yield from self._fault.part(part)
            self._follows_token = CHOICE in data
            self._num_tokens += self._follows_token

    def _whole(self, head: Head) -> Iterator[Step]:
        part = Part(bytes(self._body), head)
        if part.data:
            part = part.of(self._fault.edited(part))
            head = head.having(b"content-length", b"%d" % len(part.data))
        yield from self._fault.head(head)
        if part.data:
            yield from self._fault.part(part)
