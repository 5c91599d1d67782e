"""An exchange (a request and its reply) as readable JSON.

A body is `json` if it is JSON, else `text`, else `base64`. A reply's parts are as they came, each with its
time: a part may be a frame of a stream, several frames, or a piece of one.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import orjson

VERSION = 1
MOST_SHOWN_CHARS = 60
# The sign that replaces a secret is not Latin-1; everything else is.
HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+): (?P<value>(?:[^\0\r\n\u0100-\U0010ffff]|…)*)")
KINDS: dict[Any, str] = {
    int: "an integer",
    int | float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}

T = TypeVar("T")

Headers = tuple[tuple[str, str], ...]


class End(StrEnum):
    """How a reply ended. CUT: the server closed the connection early, or it broke."""

    WHOLE = "whole"
    CUT = "cut"
    CLIENT_LEFT = "client left"


@dataclass(frozen=True, slots=True)
class Asked:
    """path, query: as sent, with percent signs. headers: each character is a byte (Latin-1)."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Exchange:
    """head_s: seconds from the request to the head of the reply. parts: of its body, with the seconds since
    the request."""

    asked: Asked
    status: int
    headers: Headers
    head_s: float = 0.0
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    end: End = End.CLIENT_LEFT  # until it is known

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)


def json_of(body: bytes) -> Any:
    """The body as JSON; None if it is not JSON, or nested too deeply to be written again."""
    try:
        value = orjson.loads(body)
        orjson.dumps(value)
    except (ValueError, TypeError):
        return None
    return value


def meaning_of(value: Any) -> bytes:
    """A canonical text of JSON: equal for values that differ only in the order of keys and the
    notation of numbers."""
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def shown(value: Any) -> str:
    """The value for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN_CHARS else text[:MOST_SHOWN_CHARS] + "…"


def to_record(exchange: Exchange, digest: str, time: str) -> dict[str, Any]:
    asked = exchange.asked
    return {
        "version": VERSION,
        "time": time,
        "request": {
            "method": asked.method,
            "path": asked.path,
            "query": asked.query,
            "headers": _lines(asked.headers),
            "digest": digest,
            **_body_record(asked.body),
        },
        "response": {
            "status": exchange.status,
            "headers": _lines(exchange.headers),
            "after_s": round(exchange.head_s, 4),
            "parts": [{"after_s": round(at, 4), **_bytes_record(data)} for at, data in exchange.parts],
            "end": exchange.end,
        },
    }


def from_record(record: Any) -> tuple[str, Exchange]:
    """(digest of the request, exchange). Raises ValueError for an invalid record."""
    version = _field(record, "version", int)
    if version != VERSION:
        raise ValueError(f"it has version {version}, but only {VERSION} is supported")
    request, response = _field(record, "request", dict), _field(record, "response", dict)
    asked = Asked(
        _field(request, "method", str),
        _field(request, "path", str),
        _field(request, "query", str),
        _headers(_field(request, "headers", list)),
        _body_bytes(request),
    )
    exchange = Exchange(
        asked,
        _status(_field(response, "status", int)),
        _headers(_field(response, "headers", list)),
        _seconds(response),
        [(_seconds(part), _body_bytes(part)) for part in _field(response, "parts", list)],
        End(_field(response, "end", str)),
    )
    return _field(request, "digest", str), exchange


def _field(record: Any, name: str, kind: type[T]) -> T:
    if not isinstance(record, dict):
        raise ValueError(f"{shown(record)} must be an object with {name}")
    if name not in record:
        raise ValueError(f"it has no {name}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} must be {KINDS[kind]}, not {shown(value)}")
    return value


def _status(status: int) -> int:
    if not 100 <= status <= 599:
        raise ValueError(f"status must be from 100 to 599, not {status}")
    return status


def _seconds(record: Any) -> float:
    seconds = float(_field(record, "after_s", int | float))  # type: ignore[arg-type]
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"after_s must be a number of seconds, at least 0, not {seconds}")
    return seconds


def _lines(headers: Headers) -> list[str]:
    return [f"{name}: {value}" for name, value in headers]


def _headers(lines: list[Any]) -> Headers:
    return tuple(_header(line) for line in lines)


def _header(line: Any) -> tuple[str, str]:
    if not isinstance(line, str) or not (found := HEADER.fullmatch(line)):
        raise ValueError(f'a header must be "name: value" in Latin-1 on one line, not {shown(line)}')
    return found["name"], found["value"]


def _body_record(body: bytes) -> dict[str, Any]:
    value = json_of(body)
    return _bytes_record(body) if value is None else {"json": value}


def _bytes_record(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def _body_bytes(record: Any) -> bytes:
    if "json" in record:
        return orjson.dumps(record["json"])
    if "text" in record:
        return _field(record, "text", str).encode("utf-8")
    if "base64" in record:
        return base64.b64decode(_field(record, "base64", str), validate=True)
    raise ValueError("a body needs one of json, text and base64")
