"""Finished spans on their way to a collector: by OpenTelemetry's own processor and exporters, in a thread.

The event loop puts spans in a queue and goes on. What does not fit is dropped and counted. A collector that
takes nothing is said once, and so is its taking them again.
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
# Few at a time: while they are encoded, the event loop waits for the interpreter.
BATCH, BATCH_EVERY_MS = 64, 1000
TIMEOUT_S = 10.0  # of one batch, with its retries
LAST_S = 3.0  # for what is left when the server ends
HEADERS_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")

Count = Callable[[str, int], None]  # (sent, failed or dropped; how many spans)


class Outbox:
    """count: called with what becomes of spans, perhaps from another thread. Raises ConfigurationError for
    certificates that cannot be read, and for headers of the environment that are none."""

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
        """All of them or none: half a trace would say what was not so."""
        if self._num_put - self._exporter.num_taken + len(spans) > MOST_WAITING:
            self._count("dropped", len(spans))
            return
        self._num_put += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def close(self) -> None:
        """Send what is left, if the collector takes it within a moment. Waits for that."""
        if self._exporter.is_failing:
            self._exporter.shutdown()
        last = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(LAST_S)
        self._exporter.shutdown()


class _Told(SpanExporter):  # type: ignore[misc]
    """An exporter of which is said how it fares. num_taken: spans that the processor has handed over."""

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
            log.info("traces: %s takes spans again", self._url)
        if not is_sent and not self.is_failing and not self._is_shut:
            log.warning(
                "traces: %s does not take spans (%s); until it does, they are lost, and requests are answered"
                " as ever",
                self._url,
                self._words.text or "it has not said why",
            )
        self.is_failing = not is_sent
        return result

    def shutdown(self) -> None:
        """Safe to call twice."""
        if not self._is_shut:
            self._is_shut = True
            self._exporter.shutdown()


class _Words(logging.Handler):
    """What the SDK says first of a batch, in place of lines for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        root = logging.getLogger("opentelemetry")
        root.handlers, root.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or " ".join(record.getMessage().split())[:400]


def _exporter(settings: Tracing) -> SpanExporter:
    if settings.ca is not None and not os.access(settings.ca, os.R_OK):
        raise ConfigurationError(f"tracing.ca: {settings.ca} is not there, or cannot be read.")
    headers = {name.lower(): value for name, value in settings.headers.items()}
    if settings.protocol == "http/protobuf":
        # Late, as the other one: each brings a client of its own.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        ca = str(settings.ca) if settings.ca is not None else None
        return OTLPSpanExporter(settings.url, certificate_file=ca, headers=headers, timeout=TIMEOUT_S)
    return _grpc_exporter(settings, headers)


def _grpc_exporter(settings: Tracing, headers: dict[str, str]) -> SpanExporter:
    import grpc  # late: where it is wanted
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
    """The SDK would leave a header out that it cannot read, and say what it was."""
    for variable in HEADERS_VARIABLES:
        for number, part in enumerate(filter(None, os.environ.get(variable, "").split(",")), 1):
            name, sign, _ = part.partition("=")
            if not (sign and name.strip()):
                raise ConfigurationError(
                    f"{variable}: its part {number} is no header. It should be NAME=VALUE, and so on after"
                    " commas."
                )
