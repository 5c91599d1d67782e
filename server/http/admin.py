"""The routes that change a running server. Each needs an API key with the role admin.

A server without keys has no admins: a client without a key is never one.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.access.keys import authorize
from server.contract.admin import StateRequest
from server.contract.request import parse_body
from server.engine.group import Place
from server.errors import InvalidRequest, NotFound
from server.http.body import read_body
from server.http.openapi import STATE_EXTRA, STATE_RESPONSES
from server.http.routes import Plain, state_of
from server.http.state import ADMIN_PORT, exchange_of

NOT_ALONE = (
    "several processes use the engines, and none of them knows what the others are doing: set workers: 1, or"
    " remove the model from models.yaml and run `verbatim reload`"
)
IN_A_CLUSTER = (
    "all front ends of the cluster use the engines: remove the model from models.yaml, and restart the front"
    " ends"
)


class Guarded(Plain):
    """A route for admins. exchange.key is an admin's key when the route's function is called."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, exchange = Request(scope), exchange_of(scope)
        state = state_of(request)
        if state.settings.admin is not None and ADMIN_PORT not in scope:
            raise NotFound(
                f"{scope['method']} {scope['path']} is only served on the admin port (admin in models.yaml)"
            )
        exchange.key = state.keyring.authenticate(request.headers.get("authorization"))
        exchange.key.check("admin")
        await super()._answer(scope, receive, send)


# border.py serves these under every prefix of the API.
admin = APIRouter(route_class=Guarded, tags=["admin"])


@admin.put("/models/{model_id:path}/state", responses=STATE_RESPONSES, openapi_extra=STATE_EXTRA)
async def put_state(request: Request) -> Response:
    """Load the model, or unload it or put it to sleep when its requests have ended."""
    state = state_of(request)
    model_id: str = request.path_params["model_id"]
    model = state.find(model_id)
    authorize(exchange_of(request.scope).key, model.parent or model.id, ())
    if model.parent:
        raise InvalidRequest(
            f"{model_id} is an adapter of the model {model.parent} and is loaded and unloaded with it: use"
            f" PUT /v1/models/{model.parent}/state",
            "model",
        )
    wanted = parse_body(await read_body(request, state.settings.max_body_bytes), StateRequest).state
    if state.place is None:
        raise InvalidRequest(NOT_ALONE if not state.settings.cluster else IN_A_CLUSTER)
    state.place(model, Place(wanted))
    is_there = model.engine.state == wanted
    told = {"id": model.id, "state": model.engine.state, "wanted": wanted}
    return JSONResponse(told, 200 if is_there else 202)
