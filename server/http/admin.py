"""The routes that change a running server. Each takes an API key with the role admin.

A server without keys has no admin: anonymous is never one.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from server.errors import NotFound
from server.http.routes import Plain, state_of
from server.http.state import ADMIN_PORT, exchange_of


class Guarded(Plain):
    """A route for admins. exchange.key is the admin's when it is called."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, exchange = Request(scope), exchange_of(scope)
        state = state_of(request)
        if state.settings.admin is not None and ADMIN_PORT not in scope:
            raise NotFound(f"{scope['method']} {scope['path']} is on the admin port (admin in models.yaml)")
        exchange.key = state.keyring.authenticate(request.headers.get("authorization"))
        exchange.key.check("admin")
        await super()._answer(scope, receive, send)


# Included under every prefix of the API (border.py).
admin = APIRouter(route_class=Guarded, tags=["admin"])
