"""What the routes share: one typed object, wired by build_app."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import Scope, Send

from server.access.keys import Keyring, authorize
from server.access.limits import UNLIMITED, Allowance, RateLimits
from server.access.terms import NOBODY, Key
from server.config.changes import AdapterChange
from server.config.settings import Settings
from server.engine.base import Phase
from server.engine.group import Place
from server.engine.served import ServedModel
from server.errors import ModelNotFound, ServiceUnavailable
from server.generation.candidates import Usage
from server.http.following import Following
from server.http.journaling import Journal, Notes
from server.http.metrics import Metrics
from server.observe.attestation import Attestation, AttestedElsewhere
from server.observe.stalls import LoopWatch

if TYPE_CHECKING:
    from server.observe.tracing import Tracer


@dataclass(slots=True)
class Exchange:
    """One HTTP request as the log and the metrics see it. Times are of time.monotonic, seconds.

    send: the server's own, beneath every layer of the application.
    """

    request_id: str
    path: str  # as it was asked for
    send: Send
    started: float = field(default_factory=time.monotonic)
    first_byte: float | None = None
    status: int = 0
    reason: str = ""
    key: Key = NOBODY
    allowance: Allowance = UNLIMITED
    model: str = ""
    user: str = ""
    usage: Usage | None = None
    notes: Notes | None = None  # for the journal
    following: Following | None = None  # where it is traced


ADMIN_PORT = "verbatim.admin_port"  # in the scope of a request that came on it


def exchange_of(scope: Scope) -> Exchange:
    exchange: Exchange = scope["exchange"]
    return exchange


@dataclass(slots=True)
class State:
    """The server. draining: no new completions, running ones finish. loop: whether this process's runs.
    change: has another adapter served, or one no more; raises a Failure. None: this server cannot.
    journal: None: there is none.
    place: has a model loaded or unloaded. None: its engines are not this process's alone. tracer: None: no
    request is traced.
    """

    settings: Settings
    models: dict[str, ServedModel]
    keyring: Keyring
    limits: RateLimits
    metrics: Metrics = field(default_factory=Metrics)
    attestation: Attestation | AttestedElsewhere | None = None
    change: Callable[[AdapterChange], Awaitable[str]] | None = None
    place: Callable[[ServedModel, Place], None] | None = None
    journal: Journal | None = None
    tracer: Tracer | None = None
    draining: bool = False
    in_flight: int = 0
    loop: LoopWatch = field(init=False)

    def __post_init__(self) -> None:
        self.loop = LoopWatch(self.metrics.loop_stalls.inc)

    def model(self, model_id: str, key: Key) -> ServedModel:
        """The model of that name. Raises ModelNotFound, or AccessDenied for a key that may not use it."""
        model = self.find(model_id)
        authorize(key, model.id, model.settings.allowed_keys)
        return model

    def find(self, model_id: str) -> ServedModel:
        """The model, or the adapter, of that name. Raises ModelNotFound."""
        if (model := self.models.get(model_id)) is not None:
            return model
        for base in self.models.values():
            if (adapter := base.adapters.get(model_id)) is not None:
                return adapter
        raise ModelNotFound(model_id)

    def check_accepting(self) -> None:
        if self.draining:
            raise ServiceUnavailable("the server is shutting down; try another one", retry_after_s=10)

    @property
    def ready(self) -> bool:
        """All models are, or are rightly not loaded, apart from those that have failed for good, if those are
        not all."""
        engines = [model.engine for model in self.models.values()]
        lasting = [one for one in engines if one.status.phase is not Phase.FAILED]
        return (
            not self.draining and (not engines or bool(lasting)) and all(one.is_available for one in lasting)
        )

    def count(self, change: int) -> None:
        """A request has begun or ended."""
        self.in_flight += change
        self.metrics.in_flight.set(self.in_flight)
        for model in self.models.values():
            waiting = self.metrics.of(self.metrics.waiting, model.id)
            waiting.set(model.engine.work.turns.num_waiting)

    def record(self, exchange: Exchange) -> None:
        """Count a completion request that has ended."""
        metrics, labels = self.metrics, (exchange.model, exchange.key.name)
        metrics.of(metrics.requests, *labels, str(exchange.status)).inc()
        if exchange.reason:
            metrics.of(metrics.errors, *labels, exchange.reason).inc()
        if exchange.model:
            seconds = time.monotonic() - exchange.started
            metrics.of(metrics.seconds, exchange.model).observe(seconds)
            if exchange.first_byte is not None:
                first = exchange.first_byte - exchange.started
                metrics.of(metrics.first_seconds, exchange.model).observe(first)
        if exchange.usage is not None:
            metrics.of(metrics.prompt_tokens, *labels).inc(exchange.usage.prompt_tokens)
            metrics.of(metrics.completion_tokens, *labels).inc(exchange.usage.completion_tokens)
            exchange.allowance.settle(exchange.usage.total_tokens)
