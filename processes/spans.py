"""Spans by OpenTelemetry, sent by a thread of their own. Imported only while traces are on.

A full queue drops spans, and an unavailable collector costs its spans: neither holds up a message. Spans contain ids,
types, numbers and masked error texts, never payloads.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    ProxyTracerProvider,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from processes import tracing
from processes.hard_exit import before_hard_exit
from processes.names import process_name
from processes.once import OncePerProcess
from processes.turns import OutageLog

log = logging.getLogger(__name__)

Kind = Literal["server", "consumer", "producer", "client", "internal"]

#: Seconds for one export, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise. The exporter's own default is 10.
EXPORT_S: Final = 3.0
#: Seconds that an ending process waits for its last spans. Less than the shortest grace period.
LAST_S: Final = 2.0
MAX_ERROR_TEXT: Final = 300
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "producer": SpanKind.PRODUCER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}


class Span:
    """A span in progress. Threads can share it; only the first ``end`` counts."""

    __slots__ = ("_is_over", "_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._is_over = False
        found = span.get_span_context()
        #: Names this span as the parent of others.
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 1:02x}"

    def enter(self) -> None:
        """Make it the current span for the rest of this context, so that spans of other libraries become its parts."""
        context.attach(trace.set_span_in_context(self._span))

    def note(self, attributes: Mapping[str, Any]) -> None:
        self._span.set_attributes(attributes)

    def end(self, attributes: Mapping[str, Any] | None = None, *, error_type: str = "", error_text: str = "") -> None:
        """End it, as failed with an ``error_type``. ``error_text`` must be masked."""
        if self._is_over:
            return
        self._is_over = True
        if attributes:
            self._span.set_attributes(attributes)
        if error_type:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR, error_text[:MAX_ERROR_TEXT]))
        self._span.end()


class _Exporter(SpanExporter):
    """Reports an unavailable collector once when the outage begins and once when it ends."""

    def __init__(self, inner: SpanExporter, words: _Words) -> None:
        self._inner = inner
        self._words = words
        self._outage = OutageLog(log, "traces_away", "traces_back")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._words.first = ""
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.succeeded()
        else:
            self._outage.failed(RuntimeError(self._words.first or "the collector did not accept the spans"))
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _Words(logging.Handler):
    """Keeps the library's first warning about an export instead of logging all: it repeats them for every batch.

    The first one names the cause; the others that it retries and gives up.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()[:MAX_ERROR_TEXT]


def outages_logged(exporter: SpanExporter) -> SpanExporter:
    """``exporter``, whose outages are logged instead of each of its warnings."""
    words = _Words()
    library = logging.getLogger("opentelemetry")
    library.addHandler(words)
    library.propagate = False
    return _Exporter(exporter, words)


class _Processor(BatchSpanProcessor):
    def shutdown(self) -> None:
        # The library waits for up to 30 s. Threads cannot be started any more when the interpreter ends.
        self._batch_processor.shutdown(timeout_millis=round(LAST_S * 1000))


@OncePerProcess
def tracer() -> trace.Tracer:
    """The tracer of this process. With wrong settings of the library: one that records nothing, and a log line.

    A provider that exists already, such as that of ``opentelemetry-instrument``, is used as it is.
    """
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        try:
            _provide()
        except Exception:
            log.exception("traces_broken")
            return trace.NoOpTracer()
    return trace.get_tracer("dlq", tracing.resource.get("service.version"))


def _provide() -> None:
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    attributes = {**tracing.resource, "service.instance.id": process_name()}
    if os.environ.get("OTEL_SERVICE_NAME"):
        attributes.pop("service.name", None)
    resource = Resource.create({name: value for name, value in attributes.items() if f"{name}=" not in given})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(_Processor(outages_logged(_made_exporter())))
    trace.set_tracer_provider(provider)
    atexit.register(provider.shutdown)
    before_hard_exit(provider.shutdown)


def _made_exporter() -> SpanExporter:
    if tracing.exporter == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    names = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return OTLPSpanExporter(timeout=None if any(map(os.environ.get, names)) else EXPORT_S)


def start(name: str, kind: Kind, parent: str, attributes: Mapping[str, Any]) -> Span:
    """As ``tracing.start``."""
    if not parent:
        return Span(tracer().start_span(name, kind=_KINDS[kind], attributes=attributes))
    _, trace_id, span_id, flags = parent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    within = trace.set_span_in_context(NonRecordingSpan(remote), context.Context())
    # What this code runs in, such as a request that replays a letter, has a trace of its own.
    current = trace.get_current_span().get_span_context()
    links = [Link(current)] if current.is_valid and current.trace_id != remote.trace_id else None
    return Span(tracer().start_span(name, within, kind=_KINDS[kind], attributes=attributes, links=links))
