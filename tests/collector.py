"""A collector of traces: OTLP over HTTP or gRPC, read with the classes of the protocol's own package."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from server.config.tracing import Tracing
from server.engine.served import ServedModel
from server.observe import exporting
from tests.helpers import app_of, running, until
from tests.serving import wait_for

NAME = "POST /v3/openai/completions"
PHASES = ["admission", "queue", "prefill", "decode"]  # of a request without events
SERVER, ERROR = 2, 2  # of the protocol's kinds of spans, and of its statuses


@dataclass(frozen=True)
class Seen:
    """A span as it came. Ids in hexadecimal; parent empty: it has none. Times in ns since the epoch."""

    name: str
    trace: str
    id: str
    parent: str
    state: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, int]]
    is_error: bool
    error: str
    resource: dict[str, Any]


@dataclass
class Collector:
    """url: its endpoint. requests: the headers, or the metadata, of each batch, names in lower case. status:
    what it answers, over HTTP. holds: it answers when that is set."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    holds: threading.Event = field(default_factory=threading.Event)

    def take(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        self.requests.append(headers)
        if self.status == 200:
            self.spans += _seen(request)

    def named(self, name: str, num: int = 1) -> list[Seen]:
        """All of that name, once there are so many."""
        wait_for(lambda: sum(one.name == name for one in self.spans) >= num, 30)
        return [one for one in self.spans if one.name == name]

    def tree(self) -> Tree:
        """The first request and what is in it."""
        root = self.named(NAME)[0]
        return Tree(root, [one for one in self.spans if one.trace == root.trace])


@dataclass(frozen=True)
class Tree:
    root: Seen
    spans: Sequence[Seen]

    def inner(self, outer: Seen | None = None) -> list[Seen]:
        """The parts of a span, else of the request, by their beginning."""
        found = [one for one in self.spans if one.parent == (outer or self.root).id]
        return sorted(found, key=lambda one: (one.start, one.end))

    def names(self, outer: Seen | None = None) -> list[str]:
        return [one.name for one in self.inner(outer)]


@contextmanager
def collecting() -> Iterator[Collector]:
    """One that speaks HTTP."""
    collector = Collector()
    collector.holds.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.holds.wait(60)
            is_ours = self.path == "/v1/traces"
            if is_ours:
                request = ExportTraceServiceRequest.FromString(body)
                collector.take(request, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(collector.status if is_ours else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.holds.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def collecting_grpc() -> Iterator[Collector]:
    collector = Collector()

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]  # without types
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            collector.take(request, dict(context.invocation_metadata()))
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()


@asynccontextmanager
async def traced(
    collector: Collector, *models: ServedModel, journal: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application, whose traces go there at once, not after a second, and a client. journal: its folder.
    settings: of tracing."""
    tracing = Tracing(**{"endpoint": collector.url} | settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "BATCH_EVERY_MS", 20)
        app = app_of(*models, tracing=tracing, journal={"path": journal} if journal is not None else None)
    try:
        async with running(app) as client:
            yield app, client
    finally:
        app.state.server.tracer.close()


async def seen(collector: Collector, num: int = 1) -> list[Seen]:
    """The completions that have come, once there are so many."""
    await until(lambda: sum(one.name == NAME for one in collector.spans) >= num)
    return [one for one in collector.spans if one.name == NAME]


async def tree(collector: Collector) -> Tree:
    """The first completion, once it has come."""
    await seen(collector)
    return collector.tree()


def _seen(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for span in (span for scope in of_resource.scope_spans for span in scope.spans):
            yield Seen(
                name=span.name,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                state=span.trace_state,
                kind=span.kind,
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                attributes=_values(span.attributes),
                events=[(event.name, event.time_unix_nano) for event in span.events],
                is_error=span.status.code == ERROR,
                error=span.status.message,
                resource=resource,
            )


def _values(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind is not None else None
