"""One line a request, one format for every log line."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

log = logging.getLogger("verbatim.requests")


def configure(level: str) -> None:
    """Log to standard error. Third parties speak from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING if level != "debug" else logging.DEBUG)
    for name in ("server", "verbatim"):
        logging.getLogger(name).setLevel(level.upper())
    for name in ("asyncio", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)


def outlast_a_full_disk() -> None:
    """From now on, what this process writes to standard output and standard error is lost where it cannot be
    written, as a log on a full disk: Python and libraries (progress bars) would fail with it."""
    for name, stream in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
        if stream is not None and getattr(sys, name) is stream and not isinstance(stream, _Lossy):
            setattr(sys, name, _Lossy(stream))


class _Lossy(io.TextIOWrapper):
    def __init__(self, stream: Any) -> None:
        stream.flush()
        super().__init__(
            io.BufferedWriter(_LossyFile(stream.fileno(), "w", closefd=False)),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )


class _LossyFile(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def log_request(**fields: Any) -> None:
    """key=value pairs; text from outside is quoted, so that a client cannot forge a line."""
    if log.isEnabledFor(logging.INFO):
        log.info(
            " ".join(f"{name}={_value(value)}" for name, value in fields.items() if value not in (None, ""))
        )


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return (
        text if text.isprintable() and text.isascii() and " " not in text and '"' not in text else repr(text)
    )
