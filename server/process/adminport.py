"""The admin port: routes for operators, on a listener of its own in the process that runs the engines."""

from __future__ import annotations

import asyncio
import socket

from starlette.types import ASGIApp, Receive, Scope, Send

from server.config.settings import Settings
from server.http.connections import Connections
from server.http.state import ADMIN_PORT, State
from server.process.port import Server, config_of, open_port, protocol_factory

MOST_CONNECTIONS = 64  # in addition to those of the port


def open_admin_port(settings: Settings) -> socket.socket | None:
    """The listener; None: no admin port is configured. Raises ConfigurationError as open_port."""
    admin = settings.admin
    if admin is None:
        return None
    mode = int(settings.socket_mode, 8)
    return open_port(admin.host, admin.port, settings.slow_reader_timeout_s, mode=mode, key="admin.port")


async def serve_admin(app: ASGIApp, state: State, listener: socket.socket) -> None:
    """Serve the admin port until cancelled."""
    connections = Connections(state.settings, state.metrics, MOST_CONNECTIONS)
    admin = state.settings.admin
    tls = state.settings.tls if admin is not None and admin.tls else None
    server = Server(config_of(_Marked(app), protocol_factory(tls, connections)))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(connections.watch())
    try:
        await asyncio.wait({serving})
    finally:
        server.end()
        watching.cancel()
        await serving


class _Marked:
    """Marks each request as one that came on the admin port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, ADMIN_PORT: True}, receive, send)
