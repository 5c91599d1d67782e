"""uvicorn with our protocol, over real sockets, on both event loops: what is sent, and what comes back."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.http import connections
from server.http.cycle import Cycle
from server.http.protocol import MAX_HEAD_BYTES, Protocol
from server.process.port import open_port
from tests.helpers import LONG, app_of, eager, events, running, served, slow, talking, until
from tests.helpers import Engine as Quick
from tests.server.http.sockets import (
    blotted,
    bodies,
    connected,
    listening,
    reply,
    request,
    said,
    said_to_the_end,
)

STREAM = LONG | {"stream": True}
BEGINNING = b"HTTP/1.1 400 Bad Request\r\n"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The server runs on uvloop; both do the same."""
    return "asyncio", {"use_uvloop": request.param}


async def test_same_bytes(directory: Path) -> None:
    """With and without the extension a stream is the same, chunk by chunk."""
    app = app_of(talking(directory, "hello é or hello"))
    async with running(app):
        found = []
        for http in (None, "httptools"):
            async with listening(app, http) as port:
                found.append(bodies(await said(port, request(STREAM | {"logprobs": 1}))))
    assert found[0] == found[1]
    assert len(events(found[0][0])) > 5


async def test_body_comes_later(directory: Path) -> None:
    """A request whose body comes after its head, and in pieces, is answered as any other."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        head, body = request(STREAM).split(b"\r\n\r\n")
        for part in (head + b"\r\n\r\n", body[:10], body[10:]):
            writer.write(part)
            await asyncio.sleep(0.02)
        received = await asyncio.wait_for(reader.readuntil(b"[DONE]"), 30)
    assert received.startswith(b"HTTP/1.1 200 OK")


# --- one request after the other ---------------------------------------------------------------------------


async def test_one_connection_many_requests(directory: Path) -> None:
    """Requests of one connection, sent without waiting, are answered in their order."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port:
        received = await said(port, request(STREAM) + request(STREAM | {"n": 2, "best_of": 2}), 2)
        first, second = bodies(received)
    assert (len(events(first)), len(events(second))) == (2, 4)


@pytest.mark.parametrize("size", [10, 30_000, 300_000])
async def test_sent_ahead_in_pieces(directory: Path, size: int) -> None:
    """However much is sent ahead and however it is cut, all of it is answered."""
    app = app_of(talking(directory, "he"))
    sent = request(STREAM | {"user": "x" * size}) * 5
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        for start in range(0, len(sent), size + 7):
            writer.write(sent[start : start + size + 7])
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.wait_for(reader.readuntil(b"[DONE]\n\n\r\n0\r\n\r\n"), 30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "ahead",
    [b"POST", request(LONG), request(LONG) * 3, request(b" " * 10**6), request(LONG) + b" " * 2**24],
    ids=["begun", "one", "several", "large", "more than is kept"],
)
async def test_leaving_after_sending_ahead(
    directory: Path, caplog: pytest.LogCaptureFixture, stream: bool, ahead: bytes
) -> None:
    """A client that leaves is noticed long before its reply would end, although a further request of
    it waits unread."""
    model, engine = slow(directory)
    app = app_of(model)
    sent = request(LONG | {"stream": stream})
    async with running(app), listening(app) as port, connected(port, sent) as (_, writer):
        await until(lambda: engine.running)
        writer.write(ahead)
        await asyncio.sleep(0.1)
        with caplog.at_level("INFO", "verbatim.requests"):
            writer.transport.abort()
            await until(lambda: not engine.running)
            await until(lambda: app.state.server.in_flight == 0)
    lines = [record.getMessage() for record in caplog.records if record.name == "verbatim.requests"]
    assert ["CLIENT_LEFT" in line for line in lines] == [True]
    assert len(engine.jobs) == 1


async def test_too_much_sent_ahead(directory: Path) -> None:
    """Beyond one request of the largest size nothing is kept: the replies that are due come, then the end."""
    model, engine = eager(directory, step_s=0.005)
    app = app_of(model, max_body_bytes=1024)
    sent = request(STREAM) * 2
    async with running(app), listening(app) as port, connected(port, sent) as (reader, writer):
        await until(lambda: engine.running)
        writer.write(request(STREAM) * 1000)
        received = await asyncio.wait_for(reader.read(), 30)
    assert received.count(b"data: [DONE]\n\n\r\n0\r\n\r\n") == len(engine.jobs) == 2


async def test_large_head_that_comes_at_once(directory: Path) -> None:
    """Is refused as one that comes in pieces, and the request before it has its reply."""
    app = app_of(talking(directory, "he"))
    padding = b"".join(b"x-%d: %s\r\n" % (k, b"y" * 1000) for k in range(90))
    large = b"GET /health HTTP/1.1\r\nhost: x\r\n" + padding + b"\r\n"
    small = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    async with running(app), listening(app) as port:
        for sent, statuses in (
            (large, [b"413"]),
            (small + large, [b"200", b"413"]),
            (small * 2500, [b"200"] * 2500),
        ):
            async with connected(port, sent) as (reader, _):
                received = await _until_silent(reader, len(statuses))
            assert re.findall(rb"HTTP/1.1 (\d+)", received) == statuses


async def _until_silent(reader: asyncio.StreamReader, num: int) -> bytes:
    """What comes, up to the status line of so many replies and what comes with it."""
    received = b""
    while received.count(b"HTTP/1.1 ") < num:
        received += await asyncio.wait_for(reader.read(1 << 16), 30)
    return received


# --- what is no request ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n",
        b"CONNECT /x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT http://x/x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        request(LONG, headers={"content-length": "x"}),
        request(b"zz\r\n", headers={"transfer-encoding": "chunked", "content-length": ""}),
    ],
)
async def test_no_http(directory: Path, sent: bytes) -> None:
    """What is no HTTP gets the envelope of every failure, an id, and the end of the connection."""
    app = app_of(served(directory, Quick()))
    async with running(app), listening(app) as port, connected(port, sent) as (reader, _):
        status, headers, body = await reply(reader)
        assert await asyncio.wait_for(reader.read(), 30) == b""
    assert (status, body["code"], body["reason"]) == (400, 400, "INVALID_REQUEST_BODY")
    assert (headers["content-type"], headers["connection"]) == ("application/json", "close")
    assert len(headers["x-request-id"]) == 32
    assert "the request is not valid HTTP" in body["message"]


async def test_no_http_after_a_request(directory: Path) -> None:
    """The reply before it is whole; then comes the refusal."""
    app = app_of(talking(directory, "hello"))
    async with running(app), listening(app) as port:
        received = await said_to_the_end(port, request(STREAM) + b"nonsense\r\n\r\n")
    whole, _, refused = received.partition(BEGINNING)
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"the request is not valid HTTP" in refused


async def test_broken_chunk(directory: Path) -> None:
    """A body whose chunks are none is refused once, before it is waited for."""
    app = app_of(talking(directory, "he"))
    head = request(b"", headers={"transfer-encoding": "chunked"}).replace(b"content-length: 0\r\n", b"")
    async with running(app), listening(app) as port:
        received = await said_to_the_end(port, head + b'3\r\n{"m\r\nnonsense\r\n')
    assert received.startswith(BEGINNING)
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("parts", [[b"GET /", b"x" * 1000], [b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 200]])
async def test_endless_head(directory: Path, parts: list[bytes]) -> None:
    """A head without an end is a 413 long before it fills the memory."""
    app = app_of(served(directory, Quick()))
    async with running(app), listening(app) as port:
        sent = parts[0] + parts[1] * (4 * MAX_HEAD_BYTES // len(parts[1]))
        received = await said_to_the_end(port, sent)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"REQUEST_TOO_LARGE" in received


async def test_many_small_chunks_are_no_head(directory: Path) -> None:
    """A body in chunks of a few bytes is a body, however much its framing takes."""
    app = app_of(talking(directory, "he"))
    head = request(b"", headers={"transfer-encoding": "chunked"}).replace(b"content-length: 0\r\n", b"")
    body = b'{"model":"m","prompt":"hello","stream":true' + b" " * MAX_HEAD_BYTES * 2 + b"}"
    chunks = b"".join(b"8\r\n%b\r\n" % body[k : k + 8] for k in range(0, len(body) - 4, 8))
    rest = body[len(body) // 8 * 8 :]
    chunks += (b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\n\r\n"
    async with running(app), listening(app) as port:
        received = await said(port, head + chunks)
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("cut", [0, 50])
async def test_upgrade_is_ignored(directory: Path, cut: int) -> None:
    """Java's client asks for HTTP/2 with its first request: it is answered, body and all, as is the next."""
    app = app_of(talking(directory, "he"))
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAA"}
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        sent = request(LONG, headers=headers) + request(LONG)
        for part in (sent[:cut], sent[cut:]):
            writer.write(part)
            await asyncio.sleep(0.02)
        assert [(await reply(reader))[0] for _ in range(2)] == [200, 200]


# --- old clients, early replies, slow readers --------------------------------------------------------------


async def test_old_clients(directory: Path) -> None:
    """A client of HTTP/1.0 knows no chunks: it gets the same stream, and then the connection's end."""
    app = app_of(talking(directory, "hello é or hello"))
    async with running(app), listening(app) as port:
        (stream,) = bodies(await said(port, request(STREAM)))
        head, body = (await said_to_the_end(port, request(STREAM, "1.0"))).split(b"\r\n\r\n", 1)
        whole = await said_to_the_end(port, request(LONG, "1.0"))
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert blotted(body) == stream
    assert b"content-length: " in whole
    assert whole.endswith(b"}")


async def test_old_client_that_reads_slowly(directory: Path) -> None:
    """A full connection is waited for without chunks too."""
    model, engine = eager(directory, step_s=0.0)
    app = app_of(model)
    ask = STREAM | {"n": 64, "max_tokens": 59, "logprobs": 5}
    sent = request(ask, "1.0")
    async with running(app), listening(app) as port, connected(port, sent, limit=2048) as (reader, _):
        await until(lambda: len(engine.jobs) == 64)
        await asyncio.sleep(0.3)
        received = await asyncio.wait_for(reader.read(), 30)
    chunks = events(received.split(b"\r\n\r\n", 1)[1])
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert ends.count("length") == 64


def send_all(port: int, sent: bytes) -> bytes:
    """As many clients do: send everything, and only then read."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        received = b""
        while part := client.recv(1 << 16):
            received += part
        return received


@pytest.mark.parametrize("announced", [True, False])
async def test_refusal_of_a_large_body_arrives(directory: Path, announced: bool) -> None:
    """A client that reads only after it has sent all of a body that is too large still reads the 413."""
    app = app_of(talking(directory, "he"), max_body_bytes=1024)
    sent = request(b" " * 20_000_000)
    if not announced:
        head, body = sent.split(b"\r\n\r\n")
        head = head.replace(b"content-length: 20000000", b"transfer-encoding: chunked")
        sent = head + b"\r\n\r\n1312d00\r\n" + body + b"\r\n0\r\n\r\n"
    async with running(app), listening(app) as port:
        received = await asyncio.to_thread(send_all, port, sent)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in received


async def test_connection_goes_on_after_an_early_reply(directory: Path) -> None:
    """A request that is refused by its head alone, for want of a key, leaves the connection to the next."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port, connected(port) as (reader, writer):
        sent = request(b" " * 10**6, headers={"authorization": ""})
        writer.write(sent[:1000])
        assert (await reply(reader))[0] == 401
        writer.write(sent[1000:] + request(LONG))
        assert (await reply(reader))[0] == 200


async def test_one_that_reads_nothing_is_cut_off(directory: Path) -> None:
    """After slow_reader_timeout_s without a byte taken, the kernel ends the connection, and that the work."""
    model, engine = eager(directory, step_s=0.0)
    app = app_of(model)
    async with running(app), listening(app, timeout_s=0.5) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            client.sendall(request(STREAM | {"n": 64, "max_tokens": 59, "logprobs": 5}))
            await until(lambda: app.state.server.in_flight == 1)
            await until(lambda: app.state.server.in_flight == 0)
    assert engine.running == set()


@pytest.mark.parametrize("timeout_s", [0.0, 2.5])
def test_deadline_is_the_listeners(timeout_s: float) -> None:
    """The kernel's own time-out is set on the port, in milliseconds; 0 leaves it alone."""
    with open_port("127.0.0.1", 0, timeout_s) as listener:
        found = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert found == int(timeout_s * 1000)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_leaves_memory_at_once(directory: Path, stream: bool) -> None:
    """Nothing of it waits in a circle for the garbage collector, which comes seldom."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app) as port:
        await said_to_the_end(port, request(LONG | {"stream": stream}, headers={"connection": "close"}))
        gc.collect()
        before = connections_known()
        gc.disable()
        try:
            await said_to_the_end(port, request(LONG | {"stream": stream}, headers={"connection": "close"}))
            await asyncio.sleep(0.05)
            left = connections_known() - before
        finally:
            gc.enable()
    assert left == set()


def connections_known() -> set[object]:
    """Those of this test, and those that others hold."""
    return {one for one in gc.get_objects() if isinstance(one, Cycle | Protocol)}


def test_uvicorn_is_as_we_know_it() -> None:
    """What the protocol relies on of uvicorn's inside, beyond what the tests above show."""
    assert list(inspect.signature(HttpToolsProtocol._start_asgi_task).parameters) == ["self", "cycle", "app"]
    assert not hasattr(RequestResponseCycle, "__slots__")  # else it could not become one of ours
    source = inspect.getsource(RequestResponseCycle)
    for name in ("disconnected", "keep_alive", "more_body", "response_complete", "expected_content_length"):
        assert f"self.{name} = " in source
    assert {"pause_reading", "resume_reading", "resume_writing"} <= vars(FlowControl).keys()


async def test_an_empty_line_first(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends one has as long as any other before its request."""
    monkeypatch.setattr(connections, "EVERY_S", 0.02)
    app = app_of(served(directory, Quick()))
    async with running(app), listening(app) as port, connected(port, b"\r\n") as (reader, writer):
        await asyncio.sleep(0.1)  # deadlines have been looked at
        writer.write(request(LONG))
        status, _, _ = await reply(reader)
    assert status == 200
