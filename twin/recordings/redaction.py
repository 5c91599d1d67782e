"""Removes secrets from recordings: keys always, and prompts if wanted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import orjson

from twin.recordings.exchange import Asked, Exchange, Headers, json_of, meaning_of
from twin.verdict.eyes import SECRET, without_secrets

GONE = "…"
PROMPTS = ("prompt", "suffix", "messages", "input")  # fields of requests with prompts
REPLY_SECRET = re.compile(r"cookie|authorization|api-?key|secret", re.IGNORECASE)
# Secret fields of a JSON body. Only texts are removed: a schema for tools may have a field with such a name
# that is not a key.
SECRET_FIELD = re.compile(
    r"api[-_]?key|secret|passw(or)?d|authori[sz]ation|credential|(access|auth|bearer)[-_]?token",
    re.IGNORECASE,
)
LEAST_CHARS = 8  # shortest key or prompt that is searched; shorter ones would be found everywhere
OF_MESSAGES = ("role", "type")  # fields whose values are words of the protocol
# Fields that ask for a reply that contains the prompt, perhaps in pieces, which could not be found.
REPEATING = ("echo", "prompt_logprobs", "return_token_ids")

Hidden = dict[bytes, bytes]  # removed text -> its replacement


def digest_of(asked: Asked) -> str:
    """Identifies a request by its method, path, query and the meaning of its body. Keys do not matter."""
    clean = without_keys(asked)
    value = json_of(clean.body)
    body = clean.body if value is None else meaning_of(value)
    text = b"\n".join((clean.method.encode(), clean.path.encode(), clean.query.encode(), body))
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def redacted(exchange: Exchange, *, prompts: bool) -> Exchange:
    """The exchange without keys, even where the reply repeats one, as some do in a 401. prompts: also without
    prompts, which some servers repeat in a 422."""
    asked, hidden = exchange.asked, _keys(exchange.asked)
    if prompts:
        hidden |= _prompts(asked)
    parts, body = exchange.parts, _clean(exchange.body, hidden)
    if body != exchange.body:
        parts = [(at, _clean(data, hidden)) for at, data in parts]
        if b"".join(data for _, data in parts) != body:  # a secret is split over two parts
            parts = [(parts[-1][0], body)]
    headers = _without_secrets(exchange.headers, REPLY_SECRET, hidden)
    clean = without_keys(asked)
    return replace(
        exchange, asked=_without_prompts(clean) if prompts else clean, headers=headers, parts=parts
    )


def without_keys(asked: Asked) -> Asked:
    """Remove keys from all places of the request."""
    keys = _keys(asked)
    body = _clean(asked.body, keys)
    value = json_of(body)
    if value is not None and (clean := _without_fields(value)) != value:
        body = orjson.dumps(clean)
    return replace(
        asked,
        query=without_secrets(asked.query),
        headers=_without_secrets(asked.headers, SECRET, keys),
        body=body,
    )


def repeats_prompt(asked: Asked) -> bool:
    """Whether the reply will contain the prompt."""
    value = json_of(asked.body)
    return isinstance(value, dict) and any(
        value.get(name) is not None and value[name] is not False for name in REPEATING
    )


def _without_prompts(asked: Asked) -> Asked:
    """A body that is not a JSON object may be all prompt."""
    value = json_of(asked.body)
    if not isinstance(value, dict):
        return replace(asked, body=GONE.encode() if asked.body else b"")
    return replace(asked, body=orjson.dumps(value | {name: GONE for name in PROMPTS if name in value}))


def _prompts(asked: Asked) -> Hidden:
    """The prompts as they are, and as JSON writes them."""
    value = json_of(asked.body)
    if value is None:
        return {asked.body: GONE.encode()} if len(asked.body) >= LEAST_CHARS else {}
    found: Hidden = {}
    for prompt in _pieces(
        [value[name] for name in PROMPTS if name in value] if isinstance(value, dict) else value
    ):
        if isinstance(prompt, str):
            for text in (prompt, json.dumps(prompt)[1:-1], json.dumps(prompt, ensure_ascii=False)[1:-1]):
                found[text.encode()] = GONE.encode()
        else:  # token ids must be replaced by valid JSON
            found[json.dumps(prompt).encode()] = found[orjson.dumps(prompt)] = b"[]"
    return {text: instead for text, instead in found.items() if len(text) >= LEAST_CHARS}


def _pieces(value: Any) -> Iterator[str | list[int]]:
    """The texts and the lists of token ids in a value."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _pieces(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in OF_MESSAGES:
                yield from _pieces(one)
    elif isinstance(value, str):
        yield value


def _keys(asked: Asked) -> Hidden:
    return {key.encode(): GONE.encode() for key in _found(asked) if len(key) >= LEAST_CHARS}


def _found(asked: Asked) -> Iterator[str]:
    for name, value in asked.headers:
        # Other fields may have ordinary words as values
        if SECRET.search(name) and "cookie" not in name.lower():
            yield value.strip().rpartition(" ")[2]  # `Bearer KEY`
    for name, value in parse_qsl(asked.query):
        if SECRET.search(name) or name == "key":
            yield value
    yield from _texts_of_secrets(json_of(asked.body))


def _texts_of_secrets(value: Any, *, is_secret: bool = False) -> Iterator[str]:
    if isinstance(value, str) and is_secret:
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts_of_secrets(one, is_secret=is_secret)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts_of_secrets(one, is_secret=SECRET_FIELD.search(name) is not None)


def _without_fields(value: Any, *, is_secret: bool = False) -> Any:
    """The JSON without the texts of its secret fields, at any depth."""
    if isinstance(value, str) and is_secret:
        return GONE
    if isinstance(value, list):
        return [_without_fields(one, is_secret=is_secret) for one in value]
    if isinstance(value, dict):
        return {
            name: _without_fields(one, is_secret=SECRET_FIELD.search(name) is not None)
            for name, one in value.items()
        }
    return value


def _without_secrets(headers: Headers, secret: re.Pattern[str], hidden: Hidden) -> Headers:
    return tuple(
        (name, GONE if secret.search(name) else _clean(value.encode(), hidden).decode())
        for name, value in headers
    )


def _clean(data: bytes, hidden: Hidden) -> bytes:
    for text in sorted(hidden, key=len, reverse=True):  # one may be part of another
        data = data.replace(text, hidden[text])
    return data
