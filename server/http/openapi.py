"""Describes the contract in /openapi.json, and shows it at /docs with assets from this server alone.

The schemas are the contract's own (contract/request.py, contract/reply.py).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from server.config.adapters import AdapterSettings
from server.contract.admin import StateRequest
from server.contract.reply import Completion, ErrorBody
from server.contract.request import CompletionRequest, Shape
from server.contract.tokens import DetokenizeRequest, TokenizeRequest

SHAPES: tuple[type[Shape], ...] = (CompletionRequest, TokenizeRequest, DetokenizeRequest, StateRequest)
REF = "#/components/schemas/{model}"
EVENT = (
    'data: {"id":"…","object":"text_completion","created":1790000000,"model":"…","choices":[{"index":0,'
    '"text":" Paris","logprobs":null,"finish_reason":"stop"}],"usage":{…}}\n\ndata: [DONE]\n\n'
)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    named = {
        400: "INVALID_REQUEST_BODY: the message names field, value and allowed range",
        401: "INVALID_API_KEY: no or malformed Authorization header; FAILED_TO_AUTH: wrong or expired key",
        403: "ACCESS_DENY: the key may not use this model, or lacks the role that this route needs",
        404: "MODEL_NOT_FOUND",
        408: "TIMEOUT: the request was not sent completely in time",
        413: "REQUEST_TOO_LARGE",
        415: "UNSUPPORTED_ENCODING: the body has an encoding that Accept-Encoding does not list",
        429: "RATE_LIMIT_EXCEEDED or TOKEN_LIMIT_EXCEEDED, with Retry-After and x-ratelimit-… headers",
        500: "INTERNAL_ERROR",
        503: "SERVICE_NOT_AVAILABLE: model loading, queue full or server shutting down, with Retry-After",
        504: "TIMEOUT: the configured deadline passed",
    }
    return {status: {"model": ErrorBody, "description": named[status]} for status in statuses}


COMPLETION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Completion,
        "description": "The reply; with stream: true, server-sent events of chunks, ended by `data: [DONE]`",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENT}},
    },
    **_errors(400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504),
}
MODEL_RESPONSES = _errors(401, 404)
MODELS_RESPONSES = _errors(401)
ATTESTATION_RESPONSES = _errors(401, 503) | {
    404: {"model": ErrorBody, "description": "NOT_FOUND: the configuration has no `attest: true`"}
}
HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "this process has just stood still, and for how many seconds",
        "content": {"application/json": {}},
    }
}
DETAILS_RESPONSES = _errors(401, 403)
READY_RESPONSES: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "not yet, or no longer: the state of each model",
        "content": {"application/json": {}},
    }
}
WITH_KEY: dict[str, Any] = {"security": [{"bearer": []}]}
OF_MODEL = WITH_KEY | {
    "parameters": [
        {
            "name": "model_id",
            "in": "path",
            "required": True,
            "description": "may contain slashes",
            "schema": {"type": "string"},
        }
    ]
}
ADAPTER_RESPONSES = _errors(400, 401, 403, 404, 413, 503)
OF_ADAPTER = WITH_KEY | {
    "parameters": [
        *OF_MODEL["parameters"],
        {
            "name": "adapter_id",
            "in": "path",
            "required": True,
            "description": "may contain slashes",
            "schema": {"type": "string"},
        },
    ]
}
ADAPTER_EXTRA = OF_ADAPTER | {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": AdapterSettings.model_json_schema(ref_template=REF)}},
    }
}
TOKENS_RESPONSES = _errors(400, 401, 403, 404, 408, 413, 415, 429)


def _of_body(shape: type[Shape]) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=shape.__name__)}
    return WITH_KEY | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


COMPLETION_EXTRA, TOKENIZE_EXTRA, DETOKENIZE_EXTRA, _STATE_EXTRA = map(_of_body, SHAPES)


STATE_EXTRA = OF_MODEL | _STATE_EXTRA
STATE_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "the model is moving to that state; GET /ready shows how far it is",
        "content": {"application/json": {}},
    },
    **_errors(400, 401, 403, 404, 408, 413, 415),
}


def describe(app: FastAPI) -> None:
    """Add /openapi.json and /docs to the application."""
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    assets = files("fastapi_offline") / "static"
    app.mount("/openapi/assets", StaticFiles(directory=str(assets)), name="openapi-assets")

    async def docs(_: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Verbatim",
            swagger_js_url="/openapi/assets/swagger-ui-bundle.js",
            swagger_css_url="/openapi/assets/swagger-ui.css",
            swagger_favicon_url="/openapi/assets/favicon.png",
        )

    app.add_route("/docs", docs, include_in_schema=False)


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = document.setdefault("components", {})
        for shape in SHAPES:
            request = shape.model_json_schema(ref_template=REF)
            components.setdefault("schemas", {}).update(request.pop("$defs", {}), **{shape.__name__: request})
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            # FastAPI's own error response, which our routes never send
            operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
