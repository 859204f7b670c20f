"""Traces: the switch, and spans for code that must not import OpenTelemetry while traces are off.

``is_on`` is False unless the environment configures an exporter. Callers check it first: while it is False, traces cost
one ``if``, and OpenTelemetry is not imported. Nothing here raises: a trace must not fail a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from processes.spans import Kind, Span

EXPORTERS: Final = ("otlp", "console", "none")
PROTOCOLS: Final = ("http/protobuf",)

#: Whether spans are recorded. Read it as ``tracing.is_on``.
is_on = False
#: Of the resource, unless OTEL_RESOURCE_ATTRIBUTES or OTEL_SERVICE_NAME have them.
resource: Mapping[str, str] = {}
#: ``otlp`` or ``console``.
exporter = "otlp"


def switch(
    *, exporter_name: str, endpoint: str, protocol: str, is_disabled: bool, about: Mapping[str, str]
) -> str:  # fmt: skip
    """Turn traces on or off by values of the standard variables; return what is wrong with these, or an empty text.

    ``about``: attributes of the resource. With a wrong value traces are off.
    """
    global is_on, resource, exporter
    is_on, resource, exporter = False, about, exporter_name or "otlp"
    if exporter not in EXPORTERS:
        return f"OTEL_TRACES_EXPORTER is {exporter_name!r}; accepted: {', '.join(EXPORTERS)}"
    if protocol and protocol not in PROTOCOLS:
        return f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; accepted: {', '.join(PROTOCOLS)}"
    if endpoint and not _is_address(endpoint):
        # Without its text, which may contain a password.
        return "OTEL_EXPORTER_OTLP_ENDPOINT is not an address; accepted: http:// or https:// and a host"
    is_on = not is_disabled and exporter != "none" and bool(exporter_name or endpoint)
    return ""


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for one out of range
    except ValueError:
        return False
    host = parts.hostname or ""
    return parts.scheme in ("http", "https") and host != "" and host.isprintable() and " " not in host


def begin() -> None:
    """Prepare the tracer of this process, so that the first message does not wait for it. Call after a fork."""
    if is_on:
        from processes import spans

        spans.tracer()


def start(name: str, kind: Kind, parent: str, attributes: Mapping[str, Any]) -> Span:
    """Start a span; only while ``is_on``. ``parent``: a canonical ``traceparent``; empty: the current span or none."""
    from processes import spans

    return spans.start(name, kind, parent, attributes)


def mark(name: str, kind: Kind, parent: str, attributes: Mapping[str, Any]) -> str:
    """Record a span without duration; only while ``is_on``. Returns its ``traceparent``."""
    span = start(name, kind, parent, attributes)
    span.end()
    return span.traceparent
