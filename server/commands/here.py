"""The server of a configuration, as other commands of this machine reach it."""

from __future__ import annotations

from server.client.endpoint import Endpoint
from server.client.trust import Trust
from server.config.settings import Settings
from server.config.values import socket_path

HERE = Trust(checks=False)
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # listened on, and where that is reached


def endpoint_here(settings: Settings, trust: Trust = HERE) -> Endpoint:
    """Its admin port, if that has a number of its own, or else its port. Raises ClientError."""
    host, port, tls = settings.host, settings.port, settings.tls is not None
    if (admin := settings.admin) is not None and (admin.port or socket_path(admin.host) is not None):
        host, port, tls = admin.host, admin.port, tls and admin.tls
    if socket_path(host) is not None:
        return Endpoint(host, "", trust, tls=tls)
    host = ANYWHERE.get(host, host)
    name = f"[{host}]" if ":" in host else host
    return Endpoint(f"{'https' if tls else 'http'}://{name}:{port}", "", trust)
