"""Links from a trace id to the page of the tracing system that ``TRACE_URL_TEMPLATE`` names."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings

PLACE = "{trace_id}"


def template_problem(template: str) -> str:
    """What is wrong with ``TRACE_URL_TEMPLATE``; empty when it can be used."""
    if not template:
        return ""
    if template.count(PLACE) != 1:
        return f"TRACE_URL_TEMPLATE must contain {PLACE} once."
    rest = template.replace(PLACE, "")
    try:
        parts = urlsplit(template)
        _ = parts.port  # raises for one out of range
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and not {"{", "@"} & set(parts.netloc)
    except ValueError:
        is_address = False
    if not is_address or not rest.isascii() or not rest.isprintable() or any(sign in rest for sign in " {}<>\"'\\"):
        return "TRACE_URL_TEMPLATE is not an http or https address."
    return ""


def trace_url(trace_id: str) -> str:
    """The address of this trace; empty without a trace or a valid template."""
    template = settings.TRACE_URL_TEMPLATE
    return template.replace(PLACE, trace_id) if trace_id and not template_problem(template) else ""
