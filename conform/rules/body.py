"""The request's body: JSON, its content type, its encoding."""

from __future__ import annotations

import gzip
import json
import zlib

from conform.rules import table
from conform.subject.client import reply_of
from conform.subject.ends import require, shown
from conform.subject.refusal import failed
from conform.subject.rule import rule
from conform.subject.server import Subject

JSON = {"content-type": "application/json"}
SIMPLE = [b"", b"null", b"[]", b'"text"', b"{", b"prompt=x"]
NUMBERS = [body for body in table.NO_JSON_OBJECTS if body.endswith((b"NaN}", b"Infinity}", b"e999}"))]
MALFORMED = [body for body in table.NO_JSON_OBJECTS if body not in (*SIMPLE, *NUMBERS)]
VLLM_NUMBERS = "numbers that are not finite are accepted in unknown fields"


def small(subject: Subject) -> bytes:
    return json.dumps(subject.body(**table.BASE)).encode()


def _refuses_bodies(subject: Subject, bodies: list[bytes]) -> None:
    for body in bodies:
        body = body.replace(b'"model": "m"', b'"model": ' + json.dumps(subject.model).encode())
        response = subject.client.post(body, tokens=32, headers=JSON)
        require(response.status_code != 200, f"{shown(body.decode('utf-8', 'replace'))} is answered")
        failed(subject, response, 400, "INVALID_REQUEST_BODY")


@rule("body.is-an-object", requests=len(SIMPLE), tokens=32)
def is_an_object(subject: Subject) -> None:
    """A body that is not a JSON object is a 400."""
    _refuses_bodies(subject, SIMPLE)


@rule("body.numbers-are-finite", requests=len(NUMBERS), tokens=32, differs={"vllm": VLLM_NUMBERS})
def numbers_are_finite(subject: Subject) -> None:
    """`NaN`, `Infinity` and `1e999` are a 400, also in an unknown field."""
    _refuses_bodies(subject, NUMBERS)


@rule("body.malformed", requests=len(MALFORMED), tokens=32, hard=True)
def malformed(subject: Subject) -> None:
    """Bodies made to break a parser, nested a thousand levels deep or with broken Unicode, are a 400."""
    _refuses_bodies(subject, MALFORMED)


@rule("body.huge", requests=2, tokens=64, hard=True, differs={"vllm": "it has no limit"})
def huge(subject: Subject) -> None:
    """A body of 32 MiB is a 413, a 400 or a 404, and the next request is answered."""
    body = json.dumps(subject.body(prompt="a", max_tokens=0, user="x" * 2**25)).encode()
    response = subject.client.post(body, tokens=32)
    require(response.status_code in (413, 400), f"{response.status_code}: {shown(response.text)}")
    reply_of(subject.ask(**table.BASE))


@rule(
    "body.any-content-type",
    requests=len(table.CONTENT_TYPES),
    tokens=20 * len(table.CONTENT_TYPES),
    differs={
        "openai": "the content type is application/json",
        "vllm": "the content type is application/json",
    },
)
def any_content_type(subject: Subject) -> None:
    """A JSON object is accepted with any content type, or with none."""
    for kind in table.CONTENT_TYPES:
        response = subject.client.post(small(subject), tokens=16, headers={"content-type": kind or None})
        require(response.status_code == 200, f"{kind!r}: {response.status_code} {shown(response.text)}")


NO_ENCODINGS = {"openai": "not documented", "vllm": "compressed bodies are not supported"}


@rule("body.compressed", requests=4, tokens=80, differs=NO_ENCODINGS)
def compressed(subject: Subject) -> None:
    """A body may be compressed with gzip, with deflate (with or without zlib's header), or with both."""
    whole = small(subject)
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(whole),
        "deflate": zlib.compress(whole),
        "Deflate": raw.compress(whole) + raw.flush(),
        "deflate, gzip": gzip.compress(zlib.compress(whole)),
    }
    for encoding, body in packed.items():
        response = subject.client.post(body, tokens=16, headers=JSON | {"content-encoding": encoding})
        require(response.status_code == 200, f"{encoding}: {response.status_code} {shown(response.text)}")


@rule("body.unknown-encoding", requests=1, tokens=16, differs=NO_ENCODINGS)
def unknown_encoding(subject: Subject) -> None:
    """Any other compression is a 415 whose `Accept-Encoding` names the supported ones."""
    response = subject.client.post(small(subject), tokens=16, headers=JSON | {"content-encoding": "br"})
    failed(subject, response, 415, "UNSUPPORTED_ENCODING")
    known = response.headers.get("accept-encoding", "")
    require("gzip" in known and "deflate" in known, f"Accept-Encoding: {known!r}")


@rule("body.byte-order-mark", requests=1, tokens=16, differs={"openai": "not documented"})
def byte_order_mark(subject: Subject) -> None:
    """A UTF-8 byte order mark before the object is skipped."""
    response = subject.client.post(b"\xef\xbb\xbf" + small(subject), tokens=16, headers=JSON)
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
