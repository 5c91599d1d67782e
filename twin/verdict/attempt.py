"""One request as it came, and what happened to its reply on the connection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]"
FINISHED = re.compile(rb'"finish_reason":\s*"')
MAX_HEAD_BYTES = 64 * 1024
TAIL_BYTES = 64
GOES_ON = b'"finish_reason":null}]}\n\n\r\n'  # the end of a chunk that is not the last
INTERIM = re.compile(rb"HTTP/1\.1 1\d\d ")  # such as `100 Continue`: the reply is still to come
BODILESS = (204, 304)


@dataclass(slots=True)
class Attempt:
    """Times are of time.monotonic; None: it has not happened.

    client: who sent it. connection: its number. fingerprint: of method, path and body; attempts with the same
    fingerprint are the same request. says_retry: whether its headers say that it is a retry. body: as it was
    sent, cut. problems: of the body, by the contract. fault: the fault that it got.

    status, retry_after_s: as sent. first_byte, last_byte: of the reply. longest_pause_s: between two writes.
    is_complete: the whole reply was sent. left: when the client closed the connection before that. cut: when
    this side did. is_unread: the client closed it with an unread part of the reply in its buffer.
    """

    number: int
    came: float
    wall_time: float
    client: str
    connection: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    fingerprint: str = ""
    body: str = ""
    problems: list[str] = field(default_factory=list)
    says_retry: bool = False
    fault: str = ""
    status: int = 0
    retry_after_s: float | None = None
    first_byte: float | None = None
    last_byte: float | None = None
    longest_pause_s: float = 0.0
    num_body_bytes: int = 0
    is_stream: bool = False
    has_finished: bool = False
    is_done: bool = False
    is_complete: bool = False
    left: float | None = None
    cut: float | None = None
    is_unread: bool = False
    _head: bytearray = field(default_factory=bytearray)
    _length: int | None = None
    _tail: bytes = b""

    @property
    def is_over(self) -> bool:
        return self.is_complete or self.left is not None or self.cut is not None

    @property
    def over(self) -> float | None:
        """When the last part of the reply was sent, or could no longer be sent."""
        return self.left or self.cut or (self.last_byte if self.is_complete else None)

    @property
    def has_begun(self) -> bool:
        """Whether a part of a successful reply's body has been sent."""
        return self.status == 200 and self.num_body_bytes > 0

    @property
    def is_completion(self) -> bool:
        """Whether the contract defines its body."""
        path = self.path
        return (
            self.method == "POST" and path.endswith("/completions") and not path.endswith("/chat/completions")
        )

    def pause_s(self, now: float) -> float:
        """The longest pause of the reply so far.

        Before its first byte it does not count as a pause, because a whole reply of many tokens takes time;
        unless the request has a fault.
        """
        over = self.over or now
        before = (self.first_byte or over) - self.came if self.fault else 0.0
        return max(before, self.longest_pause_s, over - self.last_byte if self.last_byte else 0.0)

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of the reply are sent."""
        if self.is_stream and self.last_byte is not None and data.endswith(GOES_ON):  # the common case
            if now - self.last_byte > self.longest_pause_s:
                self.longest_pause_s = now - self.last_byte
            self.last_byte = now
            self.num_body_bytes += len(data)
            self._tail = data[-TAIL_BYTES:]
            return
        self.longest_pause_s = max(self.longest_pause_s, now - (self.last_byte or now))
        self.first_byte, self.last_byte = self.first_byte or now, now
        if not self.status:
            self._head += data
            end = self._head.find(HEAD_END)
            if end < 0:
                return
            head, rest = bytes(self._head[:end]), bytes(self._head[end + len(HEAD_END) :])
            self._head.clear()
            if INTERIM.match(head):
                self.feed(rest, now)
                return
            self._read_head(head)
            data = rest
        self.num_body_bytes += len(data)
        recent = self._tail + data
        self.has_finished |= FINISHED.search(recent) is not None
        self.is_done |= DONE in recent
        self._tail = recent[-TAIL_BYTES:]
        if self._length is None:
            self.is_complete = self._tail.endswith(LAST_CHUNK)
        else:
            self.is_complete = self.num_body_bytes >= self._length

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ")
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else -1
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        self.is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        length = headers.get(b"content-length", b"")
        if self.method == "HEAD" or self.status in BODILESS:
            self._length = 0
        elif length.isdigit():
            self._length = int(length)
        try:
            self.retry_after_s = float(headers[b"retry-after"])
        except (KeyError, ValueError):
            self.retry_after_s = None

    def shown(self) -> dict[str, Any]:
        """The request and its outcome, for people."""
        return {
            "number": self.number,
            "time": self.wall_time,
            "client": self.client,
            "connection": self.connection,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "body": self.body,
            "fault": self.fault,
            "status": self.status,
            "retry_after_s": self.retry_after_s,
            "seconds": None if self.over is None else round(self.over - self.came, 3),
            "ended": self._ended(),
        }

    def _ended(self) -> str:
        if self.left is not None:
            return "the client closed the connection"
        if self.cut is not None:
            return "the server closed the connection"
        if self.is_unread:
            return "sent whole, and not read"
        return "sent whole" if self.is_complete else "under way"
