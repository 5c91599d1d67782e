"""Sends finished spans to a collector: with OpenTelemetry's processor and exporters, in a thread.

The event loop puts spans into a queue. Spans that do not fit are dropped and counted. The log says once when
a collector does not accept spans, and once when it does again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from server.config.tracing import Tracing
from server.errors import ConfigurationError

log = logging.getLogger(__name__)

MOST_WAITING = 4096  # spans: about 4 MB
# Small batches: while one is encoded, the event loop waits for the interpreter.
BATCH, BATCH_EVERY_MS = 64, 1000
TIMEOUT_S = 10.0  # of one batch, with its retries
LAST_S = 3.0  # to send the rest when the server ends
HEADERS_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")

Count = Callable[[str, int], None]  # (sent, failed or dropped; number of spans)


class Outbox:
    """count: called with the fate of spans, perhaps from another thread. Raises ConfigurationError for
    certificates that cannot be read, and for invalid headers in the environment."""

    def __init__(self, settings: Tracing, count: Count) -> None:
        _check_environment()
        words = _Words()
        self._count = count
        self._exporter = _Told(_exporter(settings), settings.url, words, count)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MOST_WAITING,
            schedule_delay_millis=BATCH_EVERY_MS,
            max_export_batch_size=BATCH,
        )
        self._num_put = 0

    def put(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue all of these spans or none: half a trace would be misleading."""
        if self._num_put - self._exporter.num_taken + len(spans) > MOST_WAITING:
            self._count("dropped", len(spans))
            return
        self._num_put += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def close(self) -> None:
        """Send the rest, if the collector takes it within a moment. Blocks."""
        if self._exporter.is_failing:
            self._exporter.shutdown()
        last = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(LAST_S)
        self._exporter.shutdown()


class _Told(SpanExporter):  # type: ignore[misc]
    """An exporter that reports its results. num_taken: spans that the processor has handed over."""

    def __init__(self, exporter: SpanExporter, url: str, words: _Words, count: Count) -> None:
        self.num_taken = 0
        self.is_failing = False
        self._exporter = exporter
        self._url = url
        self._words = words
        self._count = count
        self._is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._words.text = ""
        result = self._exporter.export(spans)
        self.num_taken += len(spans)
        is_sent = result.name == "SUCCESS"
        self._count("sent" if is_sent else "failed", len(spans))
        if is_sent and self.is_failing:
            log.info("traces: %s accepts spans again", self._url)
        if not is_sent and not self.is_failing and not self._is_shut:
            log.warning(
                "traces: %s does not accept spans (%s); they are dropped until it does, and requests are"
                " answered as usual",
                self._url,
                self._words.text or "it gave no reason",
            )
        self.is_failing = not is_sent
        return result

    def shutdown(self) -> None:
        """Safe to call twice."""
        if not self._is_shut:
            self._is_shut = True
            self._exporter.shutdown()


class _Words(logging.Handler):
    """Keeps the first message of the SDK about a batch, instead of logging a line for each."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        root = logging.getLogger("opentelemetry")
        root.handlers, root.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or " ".join(record.getMessage().split())[:400]


def _exporter(settings: Tracing) -> SpanExporter:
    if settings.ca is not None and not os.access(settings.ca, os.R_OK):
        raise ConfigurationError(f"tracing.ca: {settings.ca} does not exist or cannot be read.")
    headers = {name.lower(): value for name, value in settings.headers.items()}
    if settings.protocol == "http/protobuf":
        # Imported late, like the other exporter: each brings a client of its own.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        ca = str(settings.ca) if settings.ca is not None else None
        return OTLPSpanExporter(settings.url, certificate_file=ca, headers=headers, timeout=TIMEOUT_S)
    return _grpc_exporter(settings, headers)


def _grpc_exporter(settings: Tracing, headers: dict[str, str]) -> SpanExporter:
    import grpc  # imported late: only needed here
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    of_environment = next((os.environ[name] for name in HEADERS_VARIABLES if os.environ.get(name)), "")
    sent = {**parse_env_headers(of_environment, liberal=True), **headers}
    is_plain = settings.endpoint.startswith("http://")
    roots = settings.ca.read_bytes() if settings.ca is not None else None
    return OTLPSpanExporter(
        settings.url,
        insecure=is_plain,
        credentials=None if is_plain else grpc.ssl_channel_credentials(roots),
        headers=sent,
        timeout=TIMEOUT_S,
    )


def _check_environment() -> None:
    """Check headers in the environment: the SDK would ignore an invalid one, and log its value."""
    for variable in HEADERS_VARIABLES:
        for number, part in enumerate(filter(None, os.environ.get(variable, "").split(",")), 1):
            name, sign, _ = part.partition("=")
            if not (sign and name.strip()):
                raise ConfigurationError(
                    f"{variable}: its part {number} is not a header. It must be NAME=VALUE, with commas"
                    " between headers."
                )
