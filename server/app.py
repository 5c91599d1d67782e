"""build_app wires everything; nothing else does."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from server import __version__, routes
from server.auth import Keyring
from server.border import Border, handle_failure, handle_router
from server.errors import RequestFailure
from server.limits import RateLimits
from server.metrics import Metrics
from server.models import ServedModel
from server.openapi import describe
from server.settings import Settings
from server.state import State


def build_app(settings: Settings, models: list[ServedModel], metrics: Metrics | None = None) -> FastAPI:
    """The application over models whose engines somebody else runs. app.state.server holds the one State."""
    limits = settings.rate_limits
    state = State(
        settings=settings,
        models={model.id: model for model in models},
        keyring=Keyring(settings.api_keys, settings.api_keys_file),
        limits=RateLimits(limits.requests_per_minute, limits.tokens_per_minute),
        metrics=metrics or Metrics(),
    )
    app = FastAPI(
        title="Verbatim", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.server = state
    for prefix in routes.PREFIXES:
        app.include_router(routes.api, prefix=prefix, include_in_schema=prefix == routes.PREFIXES[0])
    app.include_router(routes.operations)
    describe(app)
    app.add_exception_handler(RequestFailure, handle_failure)
    app.add_exception_handler(HTTPException, handle_router)
    app.add_middleware(Border, state=state)
    return app
