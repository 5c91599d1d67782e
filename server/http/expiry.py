"""When a certificate expires, and words about it in the log while there is time to do something."""

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
# Tags of ASN.1, as a certificate has them.
VERSION, UTC_TIME = 0xA0, 0x17


def end_of(file: Path) -> datetime | None:
    """Of the first certificate in it, which is the server's own. None: it has none that can be read."""
    try:
        found = FIRST.search(file.read_bytes())
        return _not_after(base64.b64decode(found[1])) if found else None
    except (OSError, ValueError, IndexError):
        return None


async def watch_end(file: Path) -> None:
    """Warn when there are two weeks left, and twice a day from then on."""
    while True:
        ends = end_of(file)
        if ends is not None and ends - datetime.now(UTC) < SOON:
            log.warning("the certificate in %s %s", file, said(ends))
        await asyncio.sleep(EVERY_S)


def said(ends: datetime) -> str:
    """Of a certificate: what is so, and what to do."""
    verb = "expires" if ends > datetime.now(UTC) else "has expired, and clients refuse it: it was valid until"
    when = f"{ends:%Y-%m-%d %H:%M} UTC"
    return f"{verb} {when}; put a new one there, which is read at once."


def _not_after(der: bytes) -> datetime:
    """RFC 5280. First are the version, which may be missing, number, algorithm, issuer and validity."""
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
    """Tag and content of what begins there, and where the next one does."""
    tag, length, begin = data[start], data[start + 1], start + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    return tag, data[begin : begin + length], begin + length
