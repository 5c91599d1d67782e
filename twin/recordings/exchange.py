"""What was asked, and what was answered, as JSON that people read.

A body is `json` where it is that, else `text`, else `base64`. A reply's parts are as they came, each with its
time: a frame of a stream may be one, or several, or a piece of one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

VERSION = 1

Headers = tuple[tuple[str, str], ...]


class End(StrEnum):
    """Of a reply. CUT: the server closed the connection before its end, or it broke."""

    WHOLE = "whole"
    CUT = "cut"
    CLIENT_LEFT = "client left"


@dataclass(frozen=True, slots=True)
class Asked:
    """path, query: as they were sent, percent signs included. headers: a character is a byte (Latin-1)."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Exchange:
    """head_s: from the request to the reply's head. parts: of its body, with the seconds from the request."""

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
    """What the body is as JSON; None where it is none, or so deep that it cannot be written again."""
    try:
        value = orjson.loads(body)
        orjson.dumps(value)
    except (ValueError, TypeError):
        return None
    return value


def meaning_of(value: Any) -> bytes:
    """One text for all JSON that says the same: the order of an object's keys and the notation of numbers say
    nothing."""
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


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


def from_record(record: dict[str, Any]) -> tuple[str, Exchange]:
    """The digest of what was asked, and the exchange. Raises KeyError, TypeError or ValueError for a record
    that is none."""
    if record["version"] != VERSION:
        raise ValueError(f"it is of version {record['version']}, and {VERSION} is known here")
    request, response = record["request"], record["response"]
    asked = Asked(
        request["method"],
        request["path"],
        request["query"],
        _headers(request["headers"]),
        _body_bytes(request),
    )
    exchange = Exchange(
        asked,
        int(response["status"]),
        _headers(response["headers"]),
        float(response["after_s"]),
        [(float(part["after_s"]), _body_bytes(part)) for part in response["parts"]],
        End(response["end"]),
    )
    return request["digest"], exchange


def _lines(headers: Headers) -> list[str]:
    return [f"{name}: {value}" for name, value in headers]


def _headers(lines: Iterable[str]) -> Headers:
    pairs = [line.partition(": ") for line in lines]
    for name, separator, _ in pairs:
        if not separator:
            raise ValueError(f'a header is to be "name: value", not "{name}"')
    return tuple((name, value) for name, _, value in pairs)


def _body_record(body: bytes) -> dict[str, Any]:
    value = json_of(body)
    return _bytes_record(body) if value is None else {"json": value}


def _bytes_record(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def _body_bytes(record: dict[str, Any]) -> bytes:
    if "json" in record:
        return orjson.dumps(record["json"])
    if "text" in record:
        return str(record["text"]).encode("utf-8")
    return base64.b64decode(record["base64"], validate=True)
