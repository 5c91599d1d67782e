"""The routes that change a running server. Each takes an API key with the role admin.

A server without keys has no admin: anonymous is never one.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from server.http.routes import Plain, state_of
from server.http.state import exchange_of


class Guarded(Plain):
    """A route for admins. exchange.key is the admin's when it is called."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, exchange = Request(scope), exchange_of(scope)
        exchange.key = state_of(request).keyring.authenticate(request.headers.get("authorization"))
        exchange.key.check("admin")
        await super()._answer(scope, receive, send)


# Included under every prefix of the API (border.py).
admin = APIRouter(route_class=Guarded, tags=["admin"])
