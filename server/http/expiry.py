"""Warns in the log before a certificate expires."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

SOON = timedelta(days=14)
EVERY_S = 12 * 3600.0
FIRST = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
# ASN.1 tags that are used in a certificate.
VERSION, UTC_TIME = 0xA0, 0x17


def end_of(file: Path) -> datetime | None:
    """The expiry of the first certificate in the file, which is the server's. None: the file has none that
    can be read."""
    try:
        found = FIRST.search(file.read_bytes())
        return _not_after(base64.b64decode(found[1])) if found else None
    except (OSError, ValueError, IndexError):
        return None


async def watch_end(file: Path) -> None:
    """Warn in the last two weeks, twice a day. Runs until cancelled."""
    while True:
        ends = end_of(file)
        if ends is not None and ends - datetime.now(UTC) < SOON:
            log.warning("the certificate in %s %s", file, said(ends))
        await asyncio.sleep(EVERY_S)


def said(ends: datetime) -> str:
    """The expiry of a certificate in words, and what to do."""
    verb = "expires" if ends > datetime.now(UTC) else "has expired, and clients refuse it: it was valid until"
    when = f"{ends:%Y-%m-%d %H:%M} UTC"
    return f"{verb} {when}; replace the file, which the server then reads by itself."


def _not_after(der: bytes) -> datetime:
    """The notAfter of a certificate in DER (RFC 5280). Before it come the version, which may be missing,
    number, algorithm, issuer and notBefore."""
    inner = _part(_part(der, 0)[1], 0)[1]
    start, count = 0, 0
    while True:
        tag, content, start = _part(inner, start)
        count += tag != VERSION
        if count == 4:
            break
    _, _, second = _part(content, 0)
    tag, text, _ = _part(content, second)
    form = "%y%m%d%H%M%SZ" if tag == UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _part(data: bytes, start: int) -> tuple[int, bytes, int]:
    """(tag, content, start of the next part) of the part that begins at `start`."""
    tag, length, begin = data[start], data[start + 1], start + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    return tag, data[begin : begin + length], begin + length
