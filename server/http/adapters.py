"""Routes by which an operator adds, changes and removes adapters while the server runs.

Their effect lasts until the configuration is read again; permanent adapters belong in models.yaml.
"""

from __future__ import annotations

import orjson
from fastapi import Request, Response
from pydantic import ValidationError
from starlette.responses import JSONResponse

from server.access.keys import authorize
from server.config.adapters import AdapterSettings
from server.config.changes import AdapterChange
from server.contract.reply import Changed
from server.errors import (
    ConfigurationError,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    ServiceUnavailable,
)
from server.http.admin import admin
from server.http.body import read_body
from server.http.openapi import ADAPTER_EXTRA, ADAPTER_RESPONSES, OF_ADAPTER
from server.http.routes import state_of
from server.http.state import State, exchange_of

__all__ = ["admin"]  # the router with these routes

PATH = "/models/{model_id:path}/adapters/{adapter_id:path}"
NO_CHANGE = "adapters of this server can only be changed in models.yaml, with a restart"


@admin.put(PATH, response_model=Changed, responses=ADAPTER_RESPONSES, openapi_extra=ADAPTER_EXTRA)
async def put_adapter(request: Request) -> Response:
    state = state_of(request)
    body = await read_body(request, state.settings.max_body_bytes)
    return await _change(request, state, settings_of(body, request.path_params["adapter_id"]))


@admin.delete(PATH, response_model=Changed, responses=ADAPTER_RESPONSES, openapi_extra=OF_ADAPTER)
async def delete_adapter(request: Request) -> Response:
    return await _change(request, state_of(request), None)


async def _change(request: Request, state: State, adapter: AdapterSettings | None) -> Response:
    model_id, adapter_id = request.path_params["model_id"], request.path_params["adapter_id"]
    authorize(exchange_of(request.scope).key, model_id, ())
    if model_id not in state.models:
        raise ModelNotFound(model_id)
    if state.change is None:
        raise InvalidRequest(NO_CHANGE)
    change = AdapterChange(model=model_id, id=adapter_id, adapter=adapter)
    try:
        return JSONResponse({"message": await state.change(change)})
    except ConfigurationError as error:
        raise InvalidRequest(error.message) from error
    except EngineFailed as error:
        raise ServiceUnavailable(error.message, retry_after_s=30) from error


def settings_of(body: bytes, adapter_id: str) -> AdapterSettings:
    """An adapter's settings from a body of JSON. Raises InvalidRequest."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        settings = AdapterSettings.model_validate({"id": adapter_id, **given})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{field}: {first['msg'].replace('Input should', 'it should')}", field) from None
    if settings.id != adapter_id:
        raise InvalidRequest(f"id (current value: {settings.id}) must be {adapter_id}, or left out", "id")
    if not str(given["path"]).startswith("/"):
        raise InvalidRequest(
            f"path (current value: {given['path']}) must be an absolute path on the server's machine", "path"
        )
    return settings
