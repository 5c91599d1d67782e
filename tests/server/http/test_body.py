"""Bodies that are compressed, damaged, bombs, or begin with a byte order mark."""

from __future__ import annotations

import codecs
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import orjson
import pytest

from server.http.body import MAX_MEMBERS, Layer
from tests.helpers import ASK, URL, Connection, Engine, app_of, running, served, talking
from tests.timing import cost_s

BODY = orjson.dumps(ASK)
LIMIT = 1 << 20


def raw(data: bytes) -> bytes:
    """Deflate without a frame, as some clients mean it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(talking(directory, "he"), max_body_bytes=LIMIT)) as client:
        yield client


async def post(client: httpx.AsyncClient, body: bytes, encoding: str) -> httpx.Response:
    return await client.post(URL, content=body, headers={"content-encoding": encoding})


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw),
        ("identity", bytes),
        ("", bytes),
        ("identity, gzip", gzip.compress),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    ],
)
async def test_encodings(client: httpx.AsyncClient, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """gzip, deflate with and without zlib's frame, none, and one over the other."""
    reply = await post(client, pack(BODY), encoding)
    assert (reply.status_code, reply.json().get("message")) == (200, None)


async def test_several_headers(client: httpx.AsyncClient) -> None:
    """A header for each encoding is a list of them."""
    headers = [("content-encoding", "deflate"), ("content-encoding", "gzip")]
    reply = await client.post(URL, content=gzip.compress(raw(BODY)), headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize("encoding", ["br", "gzip, br", "zstd", "compress", "gzip, gzip, gzip", "é"])
async def test_unknown_encoding(client: httpx.AsyncClient, encoding: str) -> None:
    """Another one is a 415 that names those that are known, in the header too."""
    reply = await client.post(URL, content=BODY, headers=[(b"content-encoding", encoding.encode())])
    assert (reply.status_code, reply.json()["reason"]) == (415, "UNSUPPORTED_ENCODING")
    assert reply.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", BODY, "not valid gzip: incorrect header check"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-1], "not valid gzip: it ends too early"),
        ("gzip", b"", "not valid gzip: it ends too early"),
        ("gzip", gzip.compress(BODY, mtime=0) + b"x" * 20, "not valid gzip: incorrect header check"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-5] + b"12345", "not valid gzip: incorrect"),
        ("deflate", zlib.compress(BODY)[:-1], "not valid deflate: it ends too early"),
        ("deflate", b"x", "not valid deflate: it ends too early"),
        ("deflate", raw(BODY) + b"x", "not valid deflate: it goes on after its end"),
        ("deflate", b"\xff" * 9, "not valid deflate: invalid block type"),
        ("gzip", gzip.compress(b"", mtime=0) * (MAX_MEMBERS + 1), "not valid gzip: it goes on after its end"),
        ("gzip", gzip.compress(b"{", mtime=0), "the body is not valid JSON"),
    ],
)
async def test_damage(client: httpx.AsyncClient, encoding: str, body: bytes, words: str) -> None:
    """A damaged body is a 400 that says how."""
    reply = await post(client, body, encoding)
    assert (reply.status_code, reply.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert words in reply.json()["message"]


async def test_several_members(client: httpx.AsyncClient) -> None:
    """A gzip file may be several in a row."""
    reply = await post(client, gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), "gzip")
    assert reply.status_code == 200


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw])
async def test_byte_by_byte(directory: Path, pack: Callable[[bytes], bytes]) -> None:
    """However the body is cut on its way, it is the same."""
    app = app_of(talking(directory, "he"))
    encoding = "gzip" if pack is gzip.compress else "deflate"
    async with running(app):
        connection = Connection(app, b"", headers=[("content-encoding", encoding)])
        connection.body_parts[:] = [bytes([byte]) for byte in pack(BODY)]
        await connection.run()
    assert connection.sent[0]["status"] == 200


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
async def test_limit_is_on_what_comes_out(client: httpx.AsyncClient, size: int, status: int) -> None:
    """A body that inflates to exactly the limit is taken; a byte more is a 413."""
    reply = await post(client, gzip.compress(BODY.ljust(size)), "gzip")
    assert reply.status_code == status


@pytest.mark.parametrize(
    "encodings", [["gzip"], ["deflate"], ["gzip", "gzip"]], ids=lambda names: "+".join(names)
)
async def test_bomb(directory: Path, encodings: list[str]) -> None:
    """A bomb is refused early: the rest of it is not read, and memory stays near the limit."""
    bomb = bytes(1 << 26)
    for name in encodings:
        bomb = gzip.compress(bomb) if name == "gzip" else raw(bomb)
    headers = [("content-encoding", ", ".join(encodings))]
    app = app_of(served(directory, Engine()), max_body_bytes=LIMIT)
    connection = Connection(app, b"", headers=headers)
    connection.body_parts[:] = [bomb[k : k + 1000] for k in range(0, len(bomb), 1000)]
    num_parts = len(connection.body_parts)
    del bomb
    tracemalloc.start()
    await connection.run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert connection.sent[0]["status"] == 413
    assert num_parts == 1 or len(connection.body_parts) > num_parts * 0.9
    assert peak < 8 * LIMIT


async def test_byte_order_mark(client: httpx.AsyncClient) -> None:
    """A UTF-8 byte order mark is skipped, compressed too; another one is no JSON."""
    marked = codecs.BOM_UTF8 + BODY
    assert (await client.post(URL, content=marked)).status_code == 200
    assert (await post(client, gzip.compress(marked), "gzip")).status_code == 200
    assert (await client.post(URL, content=codecs.BOM_UTF16_LE + BODY)).status_code == 400


async def test_a_body_that_adds_nothing(directory: Path) -> None:
    """What comes counts as well as what comes out: empty blocks without end are too large."""
    empty = b"\x00\x00\x00\xff\xff" * (1 << 16)
    asked = Connection(
        app := app_of(talking(directory, "he"), max_body_bytes=LIMIT),
        b"",
        headers=[("content-encoding", "deflate")],
    )
    asked.body_parts = [empty] * 20
    async with running(app):
        await asked.run()
    assert asked.sent[0]["status"] == 413
    assert asked.body_parts, "read to its end"


def test_a_small_body_takes_little_time() -> None:
    """Many small members after a large one cost no copy of the large one each."""
    large, small = gzip.compress(b" " * (16 * LIMIT - 2000)), gzip.compress(b" ")

    def unpack(body: bytes) -> None:
        layer = Layer("gzip", 16 * LIMIT)
        layer.feed(body)
        layer.check_end()

    assert cost_s(lambda: unpack(large + small * (MAX_MEMBERS - 2))) < 5 * cost_s(lambda: unpack(large))
