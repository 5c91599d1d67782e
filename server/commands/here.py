"""How commands on the same machine reach the server of a configuration."""

from __future__ import annotations

from server.client.endpoint import Endpoint
from server.client.trust import Trust
from server.config.settings import Settings
from server.config.values import socket_path

HERE = Trust(checks=False)
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # address listened on -> address to connect to


def endpoint_here(settings: Settings, trust: Trust = HERE) -> Endpoint:
    """The admin port if the configuration has one of its own, else the port. Raises ClientError."""
    host, port, tls = settings.host, settings.port, settings.tls is not None
    if (admin := settings.admin) is not None and (admin.port or socket_path(admin.host) is not None):
        host, port, tls = admin.host, admin.port, tls and admin.tls
    if socket_path(host) is not None:
        return Endpoint(host, "", trust, tls=tls)
    host = ANYWHERE.get(host, host)
    name = f"[{host}]" if ":" in host else host
    return Endpoint(f"{'https' if tls else 'http'}://{name}:{port}", "", trust)
