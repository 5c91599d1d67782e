"""The port, and the life of a process that answers on it: serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from server.config.sections import TLS
from server.config.values import socket_path
from server.errors import ConfigurationError
from server.http.certificates import Certificates
from server.http.connections import KEEP_ALIVE_S, Connections
from server.http.expiry import watch_end
from server.http.handshake import Handshake
from server.http.protocol import Protocol as Connection
from server.http.state import State
from server.process.descriptors import most_connections
from server.process.unixsocket import UnixListener
from server.ticks import tick

log = logging.getLogger(__name__)

BACKLOG = 2048  # connections that arrive at once wait here instead of being refused
# With Python's default of 700, the garbage collector would run every few requests, which is a twentieth of a
# request's cost.
GC_THRESHOLD = (50_000, 20, 100)
POLL_S = 0.02
DATE_S = 1.0
LAST_WORDS_S = 5  # seconds for replies that the drain cuts off to send their error frame


def open_ports(
    host: str, port: int, slow_reader_timeout_s: float, count: int, mode: int = 0o600
) -> list[socket.socket]:
    """Open `count` sockets for one port. The kernel spreads connections over the listening ones: the first
    listens at once, each other one when its process is ready. With a Unix socket, all processes share one.
    Raises as open_port."""
    if count == 1 or socket_path(host) is not None:
        first = open_port(host, port, slow_reader_timeout_s, mode=mode)
        return [first, *(socket.socket(fileno=os.dup(first.fileno())) for _ in range(count - 1))]
    if port:  # a port could be shared with other programs of this user; this one must not be
        open_port(host, port, slow_reader_timeout_s).close()
    first = open_port(host, port, slow_reader_timeout_s, shared=True)
    port = first.getsockname()[1]
    others = [
        open_port(host, port, slow_reader_timeout_s, shared=True, listens=False) for _ in range(count - 1)
    ]
    return [first, *others]


def open_port(
    host: str,
    port: int,
    slow_reader_timeout_s: float,
    *,
    shared: bool = False,
    listens: bool = True,
    mode: int = 0o600,
    key: str = "port",
) -> socket.socket:
    """A listening socket. The kernel closes its connections if the peer takes no
    data for slow_reader_timeout_s.

    shared: other processes of this server may listen on the port too. mode: of a Unix socket's file. key: the
    key of models.yaml that sets the port. Raises ConfigurationError, which says what to do.
    """
    path = socket_path(host)
    if path is not None:  # Connections ends slow readers of Unix sockets
        local = UnixListener(path, mode)
        if listens:
            local.listen(BACKLOG)
        return local
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        timeout_ms = int(slow_reader_timeout_s * 1000)
        # Connections inherit this option
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.bind(address)
        if listens:
            listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            how = f"`verbatim serve --port {port + 1}` or `make serve PORT={port + 1}`"
            raise ConfigurationError(
                f"port {port} on {host} is taken by another program. Choose another one:"
                f" {how if key == 'port' else key + ' in models.yaml'}."
            ) from None
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}.") from None
    return listener


def listens(listener: socket.socket) -> bool:
    """Whether the socket accepts connections."""
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def stop_listening(listener: socket.socket) -> None:
    """Refuse new and waiting connections. The socket may listen again later. One that does not listen is left
    alone, because shutdown would be permanent for it. A Unix socket is shared by every process."""
    if listens(listener) and listener.family != socket.AF_UNIX:
        listener.shutdown(socket.SHUT_RDWR)


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would cut replies off and exit with the signal's status."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_ended = asyncio.Event()

    def end(self) -> None:
        """Serve no longer."""
        self.should_exit = True
        self._is_ended.set()

    async def main_loop(self) -> None:
        """uvicorn's wakes ten times a second, for what it does once a second: the date of replies."""
        await self.on_tick(0)
        dating = asyncio.create_task(self._date())
        await self._is_ended.wait()
        dating.cancel()

    async def _date(self) -> None:
        while True:
            await tick(DATE_S)
            await self.on_tick(0)

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


class Others(Protocol):
    """The processes that answer beside this one (workers.py)."""

    @property
    def num_running(self) -> int: ...

    def stop(self) -> None: ...

    async def close(self, patience_s: float) -> None: ...


async def live(
    app: ASGIApp,
    state: State,
    listener: socket.socket,
    beside: Sequence[Coroutine[Any, Any, None]],
    others: Others | None = None,
    *,
    patience_s: float = 0.0,
    connection: Callable[..., Connection] = Connection,
    server_of: Callable[[uvicorn.Config], Server] = Server,
) -> None:
    """Serve until a signal comes, or one of the coroutines `beside` ends; raises what that raises.

    patience_s: seconds to wait for the models before connections are accepted. connection: makes the protocol
    of each connection. server_of: makes the server.
    """
    connections = Connections(state.settings, state.metrics, most_connections())
    server = server_of(config_of(app, protocol_factory(state.settings.tls, connections, connection)))
    signals: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number.name)
    serving = asyncio.create_task(_serve(server, listener, state, patience_s))
    running = [asyncio.create_task(work) for work in beside]
    watches = [_settle(state), connections.watch(), state.loop.watch()]
    if (tls := state.settings.tls) is not None:
        watches.append(watch_end(tls.cert))
    aside = [asyncio.create_task(work) for work in watches]
    stop = asyncio.create_task(signals.get())
    try:
        done, _ = await asyncio.wait({serving, stop, *running}, return_when=asyncio.FIRST_COMPLETED)
        if stop in done:
            await _drain(state, connections, stop.result(), signals, others)
        for task in done & set(running):
            task.result()
    finally:
        state.draining = True
        closing = asyncio.ensure_future(others.close(LAST_WORDS_S + 1)) if others is not None else None
        for task in (*running, *aside, stop):
            task.cancel()
        await asyncio.gather(*running, *aside, stop, return_exceptions=True)
        server.end()
        await serving
        if state.tracer is not None:
            await asyncio.to_thread(state.tracer.close)
        if closing is not None:
            await closing
        if state.journal is not None:
            await asyncio.to_thread(state.journal.close)
    log.info("stopped")


def config_of(app: ASGIApp, http: Callable[..., asyncio.Protocol]) -> uvicorn.Config:
    """uvicorn's configuration. http: makes the protocol of each connection."""
    return uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]  # makes one
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # our own log says more
        server_header=False,
        proxy_headers=False,  # nothing here uses the client's address
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
    )


def protocol_factory(
    tls: TLS | None, connections: Connections, connection: Callable[..., Connection] = Connection
) -> Callable[..., asyncio.Protocol]:
    """Makes the protocol of each connection, as uvicorn calls it. Raises ConfigurationError for a certificate
    that cannot be used."""
    make = partial(connection, connections=connections)
    if tls is None:
        return make
    certificates = Certificates(tls)
    return partial(Handshake, make=make, certificates=certificates, connections=connections)


async def _serve(server: uvicorn.Server, listener: socket.socket, state: State, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while not state.ready and time.monotonic() < end:
        if server.should_exit:
            return
        await asyncio.sleep(POLL_S)
    await server.serve(sockets=[listener])


async def _settle(state: State) -> None:
    """Freeze the objects made so far: they live as long as the process, so garbage collection
    can skip them."""
    while not state.ready:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


async def _drain(
    state: State, connections: Connections, name: str, signals: asyncio.Queue[str], others: Others | None
) -> None:
    """Wait for running requests, until the time is up or a second signal comes."""
    state.draining = True
    connections.drain()
    if others is not None:
        others.stop()
    log.info(
        "%s: no new requests are accepted; %d running ones have %g s to finish",
        name,
        state.in_flight,
        state.settings.drain_timeout_s,
    )
    end = time.monotonic() + state.settings.drain_timeout_s
    while state.in_flight or (others is not None and others.num_running):
        if not signals.empty() or time.monotonic() > end:
            break
        await asyncio.sleep(POLL_S)
    if state.in_flight:
        log.warning("%d requests are cut off", state.in_flight)
