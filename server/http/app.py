"""build_app wires everything; nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp

from server import __version__
from server.access.keys import Keyring
from server.access.limits import RateLimits
from server.access.tallies import Tallies
from server.access.terms import Rules
from server.config.settings import Settings
from server.engine.served import ServedModel, tune
from server.errors import ConfigurationError
from server.http import adapters, details, routes, tokens
from server.http.border import API, Border
from server.http.documents import add_documents
from server.http.journaling import Journal
from server.http.metrics import Metrics
from server.http.openapi import describe
from server.http.page import add_pages
from server.http.paths import ByPath
from server.http.state import State
from server.observe import logs
from server.observe.attestation import Attestation, AttestedElsewhere

if TYPE_CHECKING:
    from server.observe.tracing import Tracer


class Application(FastAPI):
    """FastAPI with a single layer around its routes: each layer costs every request, and every chunk
    of a stream."""

    def build_middleware_stack(self) -> ASGIApp:
        return Border(ByPath(self.router, routes.Plain), self.state.server)


def tracer_of(settings: Settings, metrics: Metrics) -> Tracer | None:
    """The tracer, if tracing is configured. Raises ConfigurationError if it cannot be made."""
    if settings.tracing is None:
        return None
    try:
        # Imported late: it is an optional dependency and takes a quarter of a second.
        from server.observe.tracing import Tracer
    except ImportError:
        raise ConfigurationError(
            "tracing needs OpenTelemetry's SDK: run `pip install 'verbatim[otel]'`, or remove tracing from"
            " models.yaml."
        ) from None
    return Tracer(settings.tracing, lambda result, num: metrics.spans.labels(result).inc(num))


def keyring_of(settings: Settings) -> Keyring:
    """The API keys. Raises ConfigurationError if their file does not exist or cannot be read."""
    rules = Rules(settings.rate_limits, settings.key_groups)
    return Keyring(settings.api_keys, settings.api_keys_file, rules)


def journal_of(settings: Settings, metrics: Metrics) -> Journal | None:
    """The journal, if configured. Raises ConfigurationError if it cannot be written."""
    return None if settings.journal is None else Journal(settings.journal, metrics.journal)


def adopt(state: State, settings: Settings, models: Sequence[ServedModel]) -> None:
    """Use these settings and models from the next request on. Raises as keyring_of."""
    old, keyring, journal = state.settings, keyring_of(settings), journal_of(settings, state.metrics)
    former, state.journal = state.journal, journal
    if former is not None:
        Thread(target=former.close, name="journal-end").start()
    if (old.api_keys_file, old.key_groups, old.rate_limits) != (
        settings.api_keys_file,
        settings.key_groups,
        settings.rate_limits,
    ):
        state.keyring = keyring
    state.settings = settings
    state.models.clear()
    for model in models:
        state.models[model.id] = model
        tune(model.engine, settings, model.settings)
    logs.configure(settings.log_level, settings.log_format)


def build_app(
    settings: Settings,
    models: list[ServedModel],
    metrics: Metrics | None = None,
    attestation: Attestation | AttestedElsewhere | None = None,
    tallies: Tallies | None = None,
) -> FastAPI:
    """The application over models whose engines the caller runs. app.state.server is its State.

    tallies: shared with other processes.
    """
    metrics = metrics or Metrics()
    state = State(
        settings=settings,
        models={model.id: model for model in models},
        keyring=keyring_of(settings),
        limits=RateLimits(tallies or Tallies()),
        metrics=metrics,
        attestation=attestation,
        journal=journal_of(settings, metrics),
        tracer=tracer_of(settings, metrics),
    )
    app = Application(
        title="Verbatim", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.server = state
    app.include_router(routes.api, prefix=API)
    app.include_router(tokens.tokens, prefix=API)
    # This also includes the other routes of the router, for admins.
    app.include_router(adapters.admin, prefix=API)
    app.include_router(routes.operations)
    app.include_router(details.details)
    describe(app)
    add_pages(app)
    add_documents(app)
    return app
