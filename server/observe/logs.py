"""One log line per request, and one format for every line: text, or an object of JSON."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any

from server.observe.events import EVENTS, OTHER, REQUEST

log = logging.getLogger("verbatim.requests")


class Lines(logging.Formatter):
    """Formats an event as one object of JSON, in ASCII and on one line: time (UTC), level, event, message,
    the event's fields, pid. exception: a traceback. logger: if the event is a library's."""

    def format(self, record: logging.LogRecord) -> str:
        name, *fields = EVENTS.get(record.msg, (OTHER,)) if isinstance(record.msg, str) else (OTHER,)
        values = record.args if isinstance(record.args, tuple) else ()
        given: dict[str, Any] = getattr(record, "fields", None) or dict(zip(fields, values, strict=False))
        if "fields" in record.__dict__:
            name = REQUEST
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": name,
            "message": record.getMessage(),
            **{field: _plain(value) for field, value in given.items()},
        }
        if name == OTHER:
            line["logger"] = record.name
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | {"pid": record.process})


def lines(**_: Any) -> Lines:
    """A formatter for a library's own configuration, which passes more arguments."""
    return Lines()


def configure(level: str, how: str = "text") -> None:
    """Log to standard error, as `text` or as `json`. Libraries log from level warning on."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(Lines() if how == "json" else text)
    logging.captureWarnings(how == "json")
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING if level != "debug" else logging.DEBUG)
    for name in ("server", "verbatim"):
        logging.getLogger(name).setLevel(level.upper())
    for name in ("asyncio", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(one.formatter, Lines) for one in logging.getLogger().handlers)


def speak_json(library: str) -> None:
    """Make the log lines that a library has configured itself JSON too."""
    for handler in logging.getLogger(library).handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setFormatter(Lines())


def outlast_a_full_disk() -> None:
    """From now on, ignore errors when this process writes to standard output and standard error, such as a
    log on a full disk: otherwise Python and libraries (progress bars) would fail."""
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
    """Log key=value pairs; text from outside is quoted, so that a client cannot forge a line."""
    if log.isEnabledFor(logging.INFO):
        said = {name: value for name, value in fields.items() if value not in (None, "")}
        line = " ".join(f"{name}={_value(value)}" for name, value in said.items())
        log.info(line, extra={"fields": said})


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int) or value is None else str(value)


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return (
        text if text.isprintable() and text.isascii() and " " not in text and '"' not in text else repr(text)
    )
