"""The one typed object that the routes share, made by build_app."""

from __future__ import annotations

import asyncio
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
from server.engine.vllm.stats import observe
from server.errors import ModelNotFound, ServiceUnavailable
from server.generation.outputs import Usage
from server.http.following import Following
from server.http.journaling import Journal, Notes
from server.http.metrics import Metrics
from server.observe.attestation import Attestation, AttestedElsewhere
from server.observe.stalls import LoopWatch

if TYPE_CHECKING:
    from server.observe.tracing import Tracer


@dataclass(slots=True)
class Exchange:
    """One HTTP request, for the log and the metrics. Times are of time.monotonic, in seconds.

    send: the server's own, beneath all layers of the application. client: its address, if it is recorded.
    """

    request_id: str
    path: str  # the requested path
    send: Send
    started: float = field(default_factory=time.monotonic)
    first_byte: float | None = None
    status: int = 0
    reason: str = ""
    key: Key = NOBODY
    allowance: Allowance = UNLIMITED
    model: str = ""
    user: str = ""
    client: str = ""
    usage: Usage | None = None
    notes: Notes | None = None  # for the journal
    following: Following | None = None  # if the request is traced


ADMIN_PORT = "verbatim.admin_port"  # key in the scope of a request that came on the admin port


def exchange_of(scope: Scope) -> Exchange:
    exchange: Exchange = scope["exchange"]
    return exchange


@dataclass(slots=True)
class State:
    """The state of the server. draining: no new completions are accepted, running ones finish. loop: the
    watch over this process's event loop. change: adds, changes or removes an adapter; raises a Failure; None:
    this server cannot. journal: None: there is none. place: loads or unloads a model; None: the engines are
    not this process's alone. is_to_tell: the gauges are about to be set. tracer: None: no request is traced.
    nodes: in a cluster, where the engine of each model's replica is; None: there is no cluster."""

    settings: Settings
    models: dict[str, ServedModel]
    keyring: Keyring
    limits: RateLimits
    metrics: Metrics = field(default_factory=Metrics)
    attestation: Attestation | AttestedElsewhere | None = None
    change: Callable[[AdapterChange], Awaitable[str]] | None = None
    place: Callable[[ServedModel, Place], None] | None = None
    nodes: Callable[[], dict[str, dict[int, str]]] | None = None
    journal: Journal | None = None
    tracer: Tracer | None = None
    draining: bool = False
    in_flight: int = 0
    is_to_tell: bool = False
    loop: LoopWatch = field(init=False)

    def __post_init__(self) -> None:
        self.loop = LoopWatch(self.metrics.loop_stalls.inc)

    def model(self, model_id: str, key: Key) -> ServedModel:
        """The model or adapter of that name. Raises ModelNotFound, or AccessDenied if the key may
        not use it."""
        model = self.find(model_id)
        authorize(key, model.id, model.settings.allowed_keys)
        return model

    def find(self, model_id: str) -> ServedModel:
        """The model or adapter of that name. Raises ModelNotFound."""
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
        """Whether every model is ready, or unloaded on purpose. Models that have failed for good are ignored,
        unless all have."""
        engines = [model.engine for model in self.models.values()]
        lasting = [one for one in engines if one.status.phase is not Phase.FAILED]
        return (
            not self.draining and (not engines or bool(lasting)) and all(one.is_available for one in lasting)
        )

    def count(self, change: int) -> None:
        """Count a request that begins (1) or ends (-1)."""
        self.in_flight += change
        if not self.is_to_tell:  # once for all requests of this turn of the loop
            self.is_to_tell = True
            asyncio.get_running_loop().call_soon(self.tell)

    def tell(self) -> None:
        """Set the gauges of what this process is doing."""
        self.is_to_tell = False
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
            observe(metrics.of(metrics.seconds, exchange.model), seconds)
            if exchange.first_byte is not None:
                first = exchange.first_byte - exchange.started
                observe(metrics.of(metrics.first_seconds, exchange.model), first)
        if exchange.usage is not None:
            metrics.of(metrics.prompt_tokens, *labels).inc(exchange.usage.prompt_tokens)
            metrics.of(metrics.completion_tokens, *labels).inc(exchange.usage.completion_tokens)
            exchange.allowance.settle(exchange.usage.total_tokens)
