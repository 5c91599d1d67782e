"""Finds the route of a request."""

from __future__ import annotations

from collections.abc import Awaitable

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class ByPath:
    """The router, behind a table of its routes without parameters: it tries one after another, and notes in
    the scope what our routes do not need.

    kind: of the routes in the table; FastAPI's own need what the router notes.
    """

    def __init__(self, router: APIRouter, kind: type[APIRoute]) -> None:
        self._router = router
        self._known = {
            (method, route.path): route.app
            for route in router.routes
            if isinstance(route, kind) and not route.param_convertors
            for method in route.methods
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        app = self._known.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        return (app or self._router)(scope, receive, send)
