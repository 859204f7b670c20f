"""Counts and times HTTP requests of every kind, also those that never reach Django."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from dlqsite.logs import ROUTE
from messages_app.work import measuring
from processes.measured import measured

Environ = dict[str, Any]
Application = Callable[..., Iterable[bytes]]

#: Names of the measurements.
REQUESTS: Final = "http_requests"
DURATIONS: Final = "http"
#: Label of a method or an address that the site does not know: clients cannot make up series.
OTHER: Final = "other"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Answered before Django, so Django names no route.
_FRONT: Final = "api/messages"


class Timed:
    """A WSGI application around another. A request ends when its answer is ready to be sent; a body may follow."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        measuring.begin()
        status = "500"

        def started(status_line: str, *rest: Any) -> Any:
            nonlocal status
            status = status_line[:3]
            return start_response(status_line, *rest)

        began = time.perf_counter()
        try:
            return self._application(environ, started)
        finally:
            method = environ["REQUEST_METHOD"] if environ["REQUEST_METHOD"] in _METHODS else OTHER
            route = environ.get(ROUTE) or (_FRONT if environ["PATH_INFO"] == f"/{_FRONT}" else OTHER)
            note_request(method, route, status, time.perf_counter() - began)


def note_request(method: str, route: str, status: str, seconds: float) -> None:
    """Count and time a request. The labels must come from bounded sets."""
    measured.count(REQUESTS, method, route, status)
    measured.observe(DURATIONS, method, route, seconds=seconds)
