"""Traces with OpenTelemetry: which requests have one, their ids, and their spans.

Spans are made at the end of a request, from times that were recorded (trail.py). Until then a traced request
only costs its ids.

Only imported if tracing is on: the SDK is optional, and takes a quarter of a second.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.config.tracing import Tracing
from server.observe.exporting import Count, Outbox
from server.observe.spans import Span

SCOPE = "verbatim"
HEADERS = (b"traceparent", b"tracestate")
FAILED = StatusCode.ERROR


class Sender(Resource):  # type: ignore[misc]
    """A resource with a cached hash: the exporter asks for it with each span, and computing it from JSON
    takes a third of a span's cost."""

    def __hash__(self) -> int:
        return id(self)


@dataclass(slots=True)
class Trace:
    """The trace of one request. context: of its span. parent: the client's span; None: it sent none.
    offset_ns: from time.monotonic to the time of day, the same for all its spans, even if the clock
    is set meanwhile."""

    context: SpanContext
    parent: SpanContext | None
    offset_ns: int

    @property
    def id(self) -> str:
        return f"{self.context.trace_id:032x}"

    @property
    def response(self) -> str:
        """The value of a `traceresponse` header."""
        return f"00-{self.id}-{self.context.span_id:016x}-{TraceFlags.SAMPLED:02x}"

    def ns(self, at: float) -> int:
        return round(at * 1e9) + self.offset_ns


class Tracer:
    """count: as Outbox's. Raises ConfigurationError as Outbox."""

    def __init__(self, settings: Tracing, count: Count) -> None:
        self.settings = settings
        self._outbox = Outbox(settings, count)
        ratio = TraceIdRatioBased(settings.sample_ratio)
        if settings.follow_parent:
            self._sampler = ParentBased(ratio)
        else:
            self._sampler = ParentBased(ratio, ratio, ratio)
        self._ids = RandomIdGenerator()
        self._propagator = TraceContextTextMapPropagator()
        self._scope = InstrumentationScope(SCOPE, __version__)
        self._resource = _resource(settings.resource)

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
        """A new request's trace; None: it is not traced. headers: the request's, names in lower case."""
        context = self._context(headers)
        parent = get_current_span(context).get_span_context() if context is not None else None
        if parent is None or not parent.is_valid:
            trace_id, parent = self._ids.generate_trace_id(), None
        else:
            trace_id = parent.trace_id
        found = self._sampler.should_sample(context, trace_id, SCOPE)
        if found.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        flags = TraceFlags(TraceFlags.SAMPLED)
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, flags, found.trace_state)
        return Trace(own, parent, time.time_ns() - time.monotonic_ns())

    def end(self, trace: Trace, span: Span) -> None:
        """Send a request's spans."""
        spans: list[ReadableSpan] = []
        self._add_inner(spans, trace, span, trace.context)
        spans.append(self._made(trace, span, trace.context, trace.parent, SpanKind.SERVER))
        self._outbox.put(spans)

    def close(self) -> None:
        """Send the rest; takes a moment."""
        self._outbox.close()

    def _context(self, headers: Iterable[tuple[bytes, bytes]]) -> Context | None:
        """The client's W3C trace context, if it sent one."""
        sent: dict[str, list[str]] = {}
        for name, value in headers:
            if name in HEADERS:
                sent.setdefault(name.decode(), []).append(value.decode("latin-1"))
        if len(sent.get("traceparent", ())) != 1:
            return None
        return self._propagator.extract(sent, Context())

    def _add_inner(self, spans: list[ReadableSpan], trace: Trace, outer: Span, of: SpanContext) -> None:
        for span in outer.inner:
            span_id = self._ids.generate_span_id()
            own = SpanContext(of.trace_id, span_id, False, of.trace_flags, of.trace_state)
            spans.append(self._made(trace, span, own, of, SpanKind.INTERNAL))
            self._add_inner(spans, trace, span, own)

    def _made(
        self, trace: Trace, span: Span, own: SpanContext, parent: SpanContext | None, kind: SpanKind
    ) -> ReadableSpan:
        """The span that the SDK's Tracer would end with; its own start and end of a span take twelve
        times as long."""
        return ReadableSpan(
            span.name,
            context=own,
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(name, timestamp=trace.ns(at)) for name, at in span.events],
            kind=kind,
            status=Status() if span.error is None else Status(FAILED, span.error),
            start_time=trace.ns(span.start),
            end_time=trace.ns(span.end),
            instrumentation_scope=self._scope,
        )


def _resource(more: Mapping[str, str | bool | int | float]) -> Resource:
    """The resource of these spans: from OTEL_RESOURCE_ATTRIBUTES, overridden by models.yaml."""
    own: dict[str, str | bool | int | float] = {
        "service.version": __version__,
        "host.name": platform.node(),
        "process.pid": os.getpid(),
    }
    if "OTEL_SERVICE_NAME" not in os.environ:
        own["service.name"] = SCOPE
    found = Resource.create(own | dict(more))
    return Sender(found.attributes, found.schema_url)
