"""What /status shows to an admin alone: keys with their limits and use, nodes, and what was lost lately."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.access.keys import Listed
from server.access.limits import Spent
from server.http.border import DETAILS
from server.http.openapi import DETAILS_RESPONSES, WITH_KEY
from server.http.routes import Plain, state_of
from server.http.state import exchange_of

details = APIRouter(route_class=Plain, tags=["admin"])


@details.get(DETAILS, responses=DETAILS_RESPONSES, openapi_extra=WITH_KEY)
async def get_details(request: Request) -> Response:
    """For admins. Of a server without keys, which lets anybody do everything else, for anybody."""
    state = state_of(request)
    key = exchange_of(request.scope).key = state.keyring.authenticate(request.headers.get("authorization"))
    if not state.keyring.open:
        key.check("admin")
    spent = state.limits.spent()
    keys = [_shown(one, spent.get(one.key.name, Spent())) for one in state.keyring.listed()]
    nodes = {} if state.nodes is None else state.nodes()
    shown = {model: {str(number): node for number, node in of.items()} for model, of in nodes.items()}
    # Of several processes, each would tell something else.
    is_alone = state.settings.workers == 1
    recent = [asdict(one) for one in state.metrics.losses.recent] if is_alone else None
    return JSONResponse({"keys": keys, "nodes": shown, "recent": recent})


def _shown(one: Listed, spent: Spent) -> dict[str, object]:
    """limits: null where there is none. used: of them, now."""
    key = one.key
    limits = {
        "requests_per_minute": (key.requests_per_minute, spent.requests),
        "tokens_per_minute": (key.tokens_per_minute, spent.tokens),
        "concurrent_requests": (key.concurrent_requests, spent.running),
    }
    return {
        "name": key.name,
        "roles": key.roles,
        "models": key.models,
        "expires": None if one.expires is None else one.expires.isoformat(),
        "has_expired": one.has_expired,
        "limits": {name: limit or None for name, (limit, _) in limits.items()},
        "used": {name: used for name, (limit, used) in limits.items() if limit},
    }
