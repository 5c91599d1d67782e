"""TLS over real sockets, on both event loops: handshakes, certificates, and the same bytes inside."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from server.config.sections import TLS
from server.http import certificates, handshake
from server.http.certificates import Certificates
from tests.certificates import Authority, Pair
from tests.helpers import LONG, app_of, eager, events, folded, running, slow, talking, until
from tests.server.http.sockets import bodies, connected, listening, reply, request, said

STREAM = LONG | {"stream": True}
LARGE = {"n": 64, "max_tokens": 59, "logprobs": 5}


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The server runs on uvloop; both do the same."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Pair:
    return authority.pair("server")


def tls(pair: Pair, **more: Any) -> dict[str, Any]:
    return {"cert": pair.cert, "key": pair.key, **more}


async def name_in(port: int, trust: ssl.SSLContext) -> str:
    """Whose certificate the server shows."""
    async with connected(port, ssl=trust) as (_, writer):
        subject = writer.get_extra_info("peercert")["subject"]
        return str(dict(subject[0])["commonName"])


async def test_same_bytes(directory: Path, authority: Authority, server: Pair) -> None:
    """Inside, a stream is as without TLS, chunk by chunk."""
    found = []
    for settings in ({}, {"tls": tls(server)}):
        app = app_of(talking(directory, "hello é or hello"), **settings)
        trust = authority.trust() if settings else None
        async with running(app), listening(app) as port:
            found.append(bodies(await said(port, request(STREAM | {"logprobs": 1}), ssl=trust)))
    assert found[0] == found[1]


async def test_versions(directory: Path, authority: Authority, server: Pair) -> None:
    """TLS 1.2 and 1.3 are spoken, and nothing older."""
    app = app_of(talking(directory, "he", "he"), tls=tls(server))
    async with running(app), listening(app) as port:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            trust = authority.trust()
            trust.minimum_version = trust.maximum_version = version
            async with connected(port, request(LONG), ssl=trust) as (reader, _):
                assert (await reply(reader))[0] == 200
        old = authority.trust()
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await name_in(port, old)


async def test_client_certificates(directory: Path, authority: Authority, server: Pair) -> None:
    """With client_ca, a client without a certificate of that authority gets no answer."""
    clients = Authority(authority.cert.parent, "clients")
    app = app_of(talking(directory, "he"), tls=tls(server, client_ca=clients.cert))
    async with running(app) as metrics, listening(app) as port:
        for stranger in (None, authority.pair("stranger")):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with connected(port, request(LONG), ssl=authority.trust(stranger)) as (reader, _):
                    await reply(reader)
        async with connected(port, request(LONG), ssl=authority.trust(clients.pair("friend"))) as (reader, _):
            assert (await reply(reader))[0] == 200
        assert 'connections_dropped_total{reason="handshake"} 2.0' in (await metrics.get("/metrics")).text


async def test_new_certificate(directory: Path, authority: Authority, server: Pair) -> None:
    """A certificate that changes is shown to who connects afterwards; connections that are there go on."""
    app = app_of(talking(directory, "he", "he"), tls=tls(server))
    trust = authority.trust()
    async with running(app), listening(app) as port, connected(port, ssl=trust) as (reader, writer):
        assert await name_in(port, trust) == "server"
        other = authority.pair("other")
        other.key.replace(server.key)
        other.cert.replace(server.cert)
        assert await name_in(port, trust) == "other"
        writer.write(request(LONG))
        assert (await reply(reader))[0] == 200


async def test_bad_new_certificate(
    directory: Path, authority: Authority, server: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """One that cannot be used is refused in the log, once, and the one before it stays."""
    app, trust = app_of(talking(directory, "he"), tls=tls(server)), authority.trust()
    async with running(app), listening(app) as port:
        authority.pair("other").key.replace(server.key)
        for _ in range(3):
            assert await name_in(port, trust) == "server"
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "is not that of the certificate in" in record.getMessage()


def test_a_file_that_goes_while_it_is_read(server: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while they are exchanged: the last good pair stays."""
    found = Certificates(TLS(cert=server.cert, key=server.key))
    before = found.context()
    monkeypatch.setattr(certificates, "_check_readable", lambda file: file.unlink(missing_ok=True))
    server.cert.touch()
    assert found.context() is before


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01nonsense" * 50, b"\0"])
async def test_no_tls(directory: Path, server: Pair, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Who speaks something else gets an end, and no line in the log."""
    app = app_of(talking(directory, "he"), tls=tls(server))
    async with running(app), listening(app) as port, connected(port, sent) as (reader, writer):
        writer.write_eof()
        with suppress(ConnectionError):
            assert b"HTTP" not in await asyncio.wait_for(reader.read(), 10)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_no_handshake(directory: Path, server: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing is closed after a while."""
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.2)
    app = app_of(talking(directory, "he"), tls=tls(server))
    async with running(app), listening(app) as port, connected(port) as (reader, _):
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        assert app.state.connections.silent.ends == {}


async def test_silence_makes_room(directory: Path, authority: Authority, server: Pair) -> None:
    """Connections without a handshake are counted, and the oldest of them makes room for one that speaks."""
    app = app_of(talking(directory, "he"), tls=tls(server))
    async with running(app), listening(app, most=3) as port, AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(connected(port))
        async with connected(port, request(LONG), ssl=authority.trust()) as (reader, _):
            assert (await reply(reader))[0] == 200


async def test_client_leaves(directory: Path, authority: Authority, server: Pair) -> None:
    """A client that goes is noticed, with and without a word, and its work ends."""
    model, engine = slow(directory)
    app = app_of(model, tls=tls(server))
    async with running(app), listening(app) as port:
        for leaves in ("close", "abort"):
            async with connected(port, request(STREAM), ssl=authority.trust()) as (_, writer):
                await until(lambda: engine.running)
                getattr(writer.transport, leaves)()
                await until(lambda: not engine.running)


@contextmanager
def slow_client(port: int, trust: ssl.SSLContext, sent: bytes) -> Iterator[ssl.SSLSocket]:
    """A connection that takes little at a time, on which this has been sent."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", port))
        with trust.wrap_socket(raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client:
            client.sendall(sent)
            yield client


async def test_one_that_reads_nothing_is_cut_off(directory: Path, authority: Authority, server: Pair) -> None:
    """After slow_reader_timeout_s without a byte taken the connection ends, and that the work."""
    model, engine = eager(directory, step_s=0.0)
    app = app_of(model, tls=tls(server))
    ended = threading.Event()

    def read_nothing(port: int) -> None:
        with slow_client(port, authority.trust(), request(STREAM | LARGE)):
            ended.wait(20)

    async with running(app), listening(app, timeout_s=0.5) as port:
        client = asyncio.create_task(asyncio.to_thread(read_nothing, port))
        try:
            await until(lambda: app.state.server.in_flight == 1)
            await until(lambda: app.state.server.in_flight == 0, within_s=10)
        finally:
            ended.set()
            await asyncio.gather(client, return_exceptions=True)
    assert engine.running == set()


async def test_one_that_reads_late(directory: Path, authority: Authority, server: Pair) -> None:
    """It gets the whole text, in fewer chunks: the server has not kept one for each token."""
    model, engine = eager(directory, step_s=0.001)
    app = app_of(model, tls=tls(server))

    def read_late(port: int) -> bytes:
        with slow_client(port, authority.trust(), request(STREAM | LARGE)) as client:
            begun.wait(20)
            received = bytearray()
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += client.recv(1 << 16)
            return bytes(received)

    begun = threading.Event()
    async with running(app), listening(app, holds_bytes=4096) as port:
        client = asyncio.create_task(asyncio.to_thread(read_late, port))
        await until(lambda: engine.jobs)
        await until(lambda: not engine.running, within_s=20)
        begun.set()
        (body,) = bodies(await client)
    chunks = events(body)
    assert len(chunks) < 64 * 59 / 2
    texts = [choice["text"] for choice in folded(chunks)]
    assert {len(text) for text in texts} == {59}


async def test_refusal_is_read(directory: Path, authority: Authority, server: Pair) -> None:
    """A client whose body is too large gets its 413, though it goes on sending."""
    app = app_of(talking(directory, "he"), tls=tls(server), max_body_bytes=1024)
    async with running(app), listening(app) as port:
        sent = request(b"x" * 3_000_000)
        async with connected(port, sent, ssl=authority.trust()) as (reader, _):
            assert (await reply(reader))[0] == 413
