"""Logs: one JSON object a line with the request's id, and the middleware that gives each request one."""

from __future__ import annotations

import logging
import logging.config
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from dlq_app import conf
from dlq_app.domain.masking import MaskingPolicy, mask, mask_text
from messages_app.request_ids import request_id_of
from wire.errors import PolicyError
from wire.visible_text import json_visible, visible

#: Fields of a line that hold no text from outside.
_OURS = frozenset({"time", "level", "logger", "request_id", "method"})
_PLAIN_POLICY = MaskingPolicy()
#: The key in the WSGI environment for the URL pattern of the request.
ROUTE = "dlq.route"
_QUIET = ("/api/system/live", "/api/system/ready", "/metrics", "/static/")

access_log = logging.getLogger("dlqsite.access_log")


def configure_logging(*, level: str, form: str) -> None:
    """Send both ``logging`` and ``structlog`` records to stderr in the same shape."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _client_errors_in_one_line,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    # JSON escapes control characters, so nobody can forge a line; a console shows repr() of values with any. What
    # they let through and nobody sees, such as U+0085 or U+202E, is written out at the end.
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=False)
        if form == "console"
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    shown = _shown_in_console if form == "console" else _shown_in_json
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "lines": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, shown],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                # The request log says the same with more; unhandled errors are logged by the problem handler.
                "django.request": {"level": "CRITICAL"},
                # It would log paths and queries of deliveries, which can hold secrets.
                "urllib3": {"level": "ERROR"},
                "django.server": {"level": "WARNING"},
                "axes": {"level": "WARNING"},
                "pymongo": {"level": "WARNING"},
                # Django leaves it to the server to drop the body of a HEAD, and gunicorn warns of each: of every probe.
                "gunicorn.http.wsgi": {"level": "ERROR"},
            },
        }
    )


def _client_errors_in_one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Errors of clients, such as an unknown host name: a warning without the stack, since anyone can cause them."""
    if str(event.get("logger", "")).startswith("django.security."):
        event["level"] = "warning"
        for name in ("exc_info", "request"):
            event.pop(name, None)
    return event


def hide_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask the texts of a log line, stacks of exceptions included: an error of a driver may name a whole URL."""
    try:
        policy = conf.masking_policy() if settings.configured else _PLAIN_POLICY
    except PolicyError:
        policy = _PLAIN_POLICY  # a check says what is wrong
    for name, value in event.items():
        if isinstance(value, str) and name not in _OURS:
            event[name] = mask_text(value, policy)
        elif isinstance(value, dict | list | tuple):
            event[name] = mask(value, policy)
        elif isinstance(value, BaseException):
            event[name] = mask_text(repr(value), policy)
    return event


def _shown_in_json(_: Any, __: str, line: str) -> str:
    return json_visible(line)


def _shown_in_console(_: Any, __: str, line: str) -> str:
    return visible(line)


class RequestLog:
    """Bind a request id to everything logged meanwhile, echo it as ``X-Request-Id``, and log one line per request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request_id = request_id_of(request.META.get("HTTP_X_REQUEST_ID", ""))
        request.request_id = request_id  # type: ignore[attr-defined]
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        try:
            response = self.get_response(request)
            response["X-Request-Id"] = request_id
            if request.resolver_match is not None:
                request.META[ROUTE] = request.resolver_match.route
            if not request.path_info.startswith(_QUIET):
                access_log.info(
                    "request",
                    extra={
                        "method": request.method,
                        "path": request.path_info[:256],
                        "status": response.status_code,
                        "duration_ms": round((time.perf_counter() - started) * 1000, 1),
                    },
                )
            return response
        finally:
            structlog.contextvars.clear_contextvars()
