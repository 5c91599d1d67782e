"""Raw bytes: old HTTP, and input that is hardly HTTP."""

from __future__ import annotations

import json

from conform.rules import table
from conform.subject.ends import require, shown
from conform.subject.frames import chunks_of, object_of
from conform.subject.rule import rule
from conform.subject.server import Subject
from conform.subject.sockets import head_of, say

TOO_MUCH = 5 * 10**9  # bytes
OTHER_SERVERS = {"openai": "not documented", "vllm": "its HTTP server's own message"}


def _refused(subject: Subject, data: bytes, status: int, reason: str) -> None:
    seen, _, body = say(subject.client, data)
    require(seen == status, f"{seen}, not {status}: {shown(body)}")
    said = object_of(body).get("reason")
    require(said == reason, f"the reason is {said!r}, not {reason!r}")


@rule("wire.http-1-0", requests=1, tokens=16)
def http_1_0(subject: Subject) -> None:
    """An HTTP/1.0 client gets its stream without chunked encoding, ended by the connection's end."""
    body = json.dumps(subject.body(**table.BASE, stream=True)).encode()
    lines = ("content-type: application/json", f"content-length: {len(body)}")
    head = head_of(subject.client, "POST", "1.0", *lines)
    status, headers, text = say(subject.client, head + body, tokens=8)
    require(status == 200, f"{status}: {shown(text)}")
    require("transfer-encoding" not in headers, "the stream is chunked")
    chunks_of(text)


@rule("wire.no-http", requests=1, hard=True, differs=OTHER_SERVERS)
def no_http(subject: Subject) -> None:
    """Bytes that are not HTTP get a 400 with the same body as every error, and the connection closes."""
    _refused(subject, b"\x16\x03\x01 this is no HTTP\r\n\r\n", 400, "INVALID_REQUEST_BODY")


@rule("wire.large-head", requests=1, hard=True, differs=OTHER_SERVERS)
def large_head(subject: Subject) -> None:
    """A head of 1 MiB gets a 413 with the same body as every error, and the connection closes."""
    head = head_of(subject.client, "POST", "1.1", "x-large: " + "x" * 2**20)
    _refused(subject, head, 413, "REQUEST_TOO_LARGE")


@rule("wire.announced-too-large", requests=1, hard=True, differs={"vllm": "it has no limit"})
def announced_too_large(subject: Subject) -> None:
    """A body of 5 GB is a 413 as soon as its length is announced, before a byte of it arrives."""
    head = head_of(subject.client, "POST", "1.1", f"content-length: {TOO_MUCH}")
    status, _, body = say(subject.client, head)
    require(status == 413, f"{status}: {shown(body)}")
