"""The routes that change a running server. Each takes an API key with the role admin.

A server without keys has no admin: anonymous is never one.
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
    "the engines are used by several processes here, none of which knows what the others have to do: serve"
    " with workers: 1, or take the model out of models.yaml and use `verbatim reload`"
)
IN_A_CLUSTER = (
    "the engines are used by all front ends of the cluster: take the model out of models.yaml, and start the"
    " front ends anew"
)


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


@admin.put("/models/{model_id:path}/state", responses=STATE_RESPONSES, openapi_extra=STATE_EXTRA)
async def put_state(request: Request) -> Response:
    """Load a model, or have it leave memory when its requests have ended."""
    state = state_of(request)
    model_id: str = request.path_params["model_id"]
    model = state.find(model_id)
    authorize(exchange_of(request.scope).key, model.parent or model.id, ())
    if model.parent:
        raise InvalidRequest(
            f"{model_id} is an adapter of the model {model.parent}, and goes where that goes: use PUT"
            f" /v1/models/{model.parent}/state. In its engine an adapter makes room by itself",
            "model",
        )
    wanted = parse_body(await read_body(request, state.settings.max_body_bytes), StateRequest).state
    if state.place is None:
        raise InvalidRequest(NOT_ALONE if not state.settings.cluster else IN_A_CLUSTER)
    state.place(model, Place(wanted))
    is_there = model.engine.state == wanted
    told = {"id": model.id, "state": model.engine.state, "wanted": wanted}
    return JSONResponse(told, 200 if is_there else 202)
