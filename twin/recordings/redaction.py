"""What a recording does not have: keys ever, and prompts where that is wanted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qsl

import orjson

from twin.recordings.exchange import Asked, Exchange, Headers, json_of
from twin.verdict.eyes import SECRET, without_secrets

GONE = "…"
PROMPTS = ("prompt", "suffix", "messages", "input")  # fields of requests
REPLY_SECRET = re.compile(r"cookie|authorization|api-?key|secret", re.IGNORECASE)
LEAST_KEY_CHARS = 8  # shorter ones would be found everywhere in a text


def digest_of(asked: Asked) -> str:
    """By which the same request is found again: of its method, path, query and body. The order of a JSON
    object's keys does not matter, and neither does the API key."""
    clean = _without_keys(asked, _keys(asked))
    value = json_of(clean.body)
    body = clean.body if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    text = b"\n".join((clean.method.encode(), clean.path.encode(), clean.query.encode(), body))
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def without_keys(exchange: Exchange) -> Exchange:
    """Also where the reply repeats a key, as some do in a 401."""
    keys = _keys(exchange.asked)
    parts, body = exchange.parts, _clean(exchange.body, keys)
    if body != exchange.body:
        parts = [(at, _clean(data, keys)) for at, data in parts]
        if b"".join(data for _, data in parts) != body:  # a key lies across two parts
            parts = [(parts[-1][0], body)]
    headers = _without_secrets(exchange.headers, REPLY_SECRET, keys)
    return replace(exchange, asked=_without_keys(exchange.asked, keys), headers=headers, parts=parts)


def repeats_prompt(asked: Asked) -> bool:
    """Whether the reply is to have the prompt in it."""
    value = json_of(asked.body)
    return isinstance(value, dict) and bool(value.get("echo"))


def without_prompts(asked: Asked) -> Asked:
    """A body that is no JSON object may be one all over."""
    value = json_of(asked.body)
    if not isinstance(value, dict):
        return replace(asked, body=GONE.encode() if asked.body else b"")
    return replace(asked, body=orjson.dumps(value | {name: GONE for name in PROMPTS if name in value}))


def _keys(asked: Asked) -> list[bytes]:
    """The longest first: one may be a part of another."""
    found = {key.encode() for key in _found(asked) if len(key) >= LEAST_KEY_CHARS}
    return sorted(found, key=len, reverse=True)


def _found(asked: Asked) -> Iterator[str]:
    for name, value in asked.headers:
        if SECRET.search(name) and "cookie" not in name.lower():  # whose values may be any words
            yield value.strip().rpartition(" ")[2]  # `Bearer KEY`
    for name, value in parse_qsl(asked.query):
        if SECRET.search(name) or name == "key":
            yield value


def _without_keys(asked: Asked, keys: list[bytes]) -> Asked:
    return replace(
        asked,
        query=without_secrets(asked.query),
        headers=_without_secrets(asked.headers, SECRET, keys),
        body=_clean(asked.body, keys),
    )


def _without_secrets(headers: Headers, secret: re.Pattern[str], keys: list[bytes]) -> Headers:
    return tuple(
        (name, GONE if secret.search(name) else _clean(value.encode(), keys).decode())
        for name, value in headers
    )


def _clean(data: bytes, keys: list[bytes]) -> bytes:
    for key in keys:
        data = data.replace(key, GONE.encode())
    return data
