"""The body of a request: read and decompressed as it comes, never more of it than the limit."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Sequence

from fastapi import Request

from server.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding
from server.http.disconnect import ClientLeft
from server.http.failures import ENCODINGS

# zlib's wbits for a window of 32 KiB: gzip, zlib's own format, or raw deflate.
GZIP, ZLIB, RAW = 31, 15, -15
MAX_ENCODINGS = 2  # encodings on top of each other; each may take as long as the limit allows
MAX_MEMBERS = 1000  # members of a gzip file; each costs time, even an empty one


async def read_body(request: Request, limit: int) -> bytes:
    """The body, decompressed and without a byte order mark. limit: bytes after decompression.

    Raises RequestTooLarge before the whole body is read, UnsupportedEncoding before it is read,
    InvalidRequest for a damaged body, ClientLeft.
    """
    layers = [Layer(name, limit) for name in _encodings(request.headers.getlist("content-encoding"))]
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise too_large(limit)
    body, num_bytes, more = bytearray(), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part, more = message.get("body", b""), message.get("more_body", False)
        num_bytes += len(part)  # a part may add no bytes
        for layer in layers:
            part = layer.feed(part)
        body += part
        if max(len(body), num_bytes) > limit:
            raise too_large(limit)
    for layer in layers:
        layer.check_end()
    return bytes(body).removeprefix(codecs.BOM_UTF8)


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"the body is over the limit of {limit} bytes", metadata={"max_body_bytes": str(limit)}
    )


def _encodings(headers: Sequence[str]) -> list[str]:
    """The encodings in the order in which to undo them: the one that was applied last comes first."""
    named = [name.strip().lower() for header in headers for name in header.split(",")]
    found = [name.removeprefix("x-") for name in named if name not in ("", "identity")]
    for name in found:
        if name not in ENCODINGS:
            raise UnsupportedEncoding(
                f'the body is encoded as "{name}"; supported are {" and ".join(ENCODINGS)}'
            )
    if len(found) > MAX_ENCODINGS:
        raise UnsupportedEncoding(
            f"the body is encoded {len(found)} times; at most {MAX_ENCODINGS} are supported"
        )
    return found[::-1]


class Layer:
    """Undoes one encoding as the bytes come. A decompression bomb is never inflated beyond the limit."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._start = b""  # the first bytes of a deflate body, until they show whether it has zlib's header
        self._inflate = zlib.decompressobj(GZIP) if name == "gzip" else None
        self._num_members = 1
        self._num_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """The decompressed bytes that these bytes add."""
        out = bytearray()
        while data:
            inflate, data = self._ready(data)
            if inflate is None:
                break
            try:
                part = inflate.decompress(data, self._limit + 1 - self._num_bytes)
            except zlib.error as error:
                raise self._damaged(str(error).rpartition(": ")[2]) from None
            self._num_bytes += len(part)
            if self._num_bytes > self._limit:
                raise too_large(self._limit)
            out += part
            data = inflate.unused_data
        return bytes(out)

    def check_end(self) -> None:
        """Raise InvalidRequest if the data is incomplete."""
        if self._inflate is None or not self._inflate.eof:
            raise self._damaged("it ends too early")

    def _ready(self, data: bytes) -> tuple[zlib._Decompress | None, bytes]:
        """(decompressor, data for it). The decompressor is None while more data must come first."""
        if self._inflate is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return None, b""
            self._inflate = zlib.decompressobj(ZLIB if _has_zlib_frame(data) else RAW)
        elif self._inflate.eof:
            if self._name != "gzip" or self._num_members == MAX_MEMBERS:
                raise self._damaged("it goes on after its end")
            self._num_members += 1
            self._inflate = zlib.decompressobj(GZIP)
        return self._inflate, data

    def _damaged(self, how: str) -> InvalidRequest:
        return InvalidRequest(f"the body is not valid {self._name}: {how}")


def _has_zlib_frame(data: bytes) -> bool:
    """Clients use `deflate` for both: zlib's format (RFC 1950), which the standard says, and raw
    deflate (RFC 1951)."""
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
