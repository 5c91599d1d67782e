"""A certificate that is about to expire is told before it does."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from server.http import expiry
from server.http.expiry import end_of, said, watch_end
from tests.certificates import Authority
from tests.helpers import Engine, app_of, running, served


@pytest.mark.parametrize("days", [30, 365 * 40], ids=["UTCTime", "GeneralizedTime"])
def test_when_it_ends(tmp_path: Path, days: int) -> None:
    """As cryptography reads it, in both forms of a date; of the first certificate of a chain."""
    authority = Authority(tmp_path)
    pair = authority.pair("server", days=days)
    expected = x509.load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc
    assert end_of(pair.cert) == expected
    pair.cert.write_bytes(b"a comment\n" + pair.cert.read_bytes() + authority.cert.read_bytes())
    assert end_of(pair.cert) == expected


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", None]
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """Is somebody else's to say."""
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert end_of(tmp_path / "file") is None


@pytest.mark.parametrize(
    ("days", "words"), [(13, "expires"), (-0.5, "has expired"), (15, None)], ids=["soon", "past", "later"]
)
async def test_the_log_warns(
    tmp_path: Path,
    days: float,
    words: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two weeks before, and again and again."""
    pair = Authority(tmp_path).pair("server", days=days)
    monkeypatch.setattr(expiry, "EVERY_S", 0.01)
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(watch_end(pair.cert))
        await asyncio.sleep(0.2)
        task.cancel()
    found = [record.message for record in caplog.records]
    assert (len(found) > 1) == (words is not None)
    assert all(str(words) in line and str(pair.cert) in line for line in found)


def test_words() -> None:
    """The date, and what to do."""
    soon = said(datetime.now(UTC) + timedelta(days=1))
    assert "UTC; replace the file, which the server then reads by itself." in soon


async def test_metric(directory: Path, tmp_path: Path) -> None:
    """Read anew at each scrape; nothing of it without TLS."""
    pair = Authority(tmp_path).pair("server")
    name = "verbatim_certificate_expiry_timestamp_seconds{"
    for settings in ({}, {"tls": {"cert": pair.cert, "key": pair.key}}):
        async with running(app_of(served(directory, Engine()), **settings)) as client:
            lines = [
                line for line in (await client.get("/metrics")).text.splitlines() if line.startswith(name)
            ]
        ends = end_of(pair.cert)
        assert ends is not None
        assert [float(line.split()[-1]) for line in lines] == ([ends.timestamp()] if settings else [])
