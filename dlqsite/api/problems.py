"""Turn errors into RFC 9457 problems: DRF's exception handler, and middleware for every other error below ``/api``."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from rest_framework import exceptions
from rest_framework.views import set_rollback

from dlqsite import database
from wire.errors import ServiceError
from wire.problem import CONTENT_TYPE, encode, problem

log = logging.getLogger(__name__)

#: Default code, title and detail of each status.
_PLAIN: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "Bad request", "The request is not valid."),
    401: ("not_authenticated", "Not authenticated", "Send `Authorization: Api-Key <key>`."),
    403: ("forbidden", "Forbidden", "You do not have permission for this."),
    404: ("not_found", "Not found", "There is nothing at this URL."),
    405: ("method_not_allowed", "Method not allowed", "This URL does not support the method."),
    406: ("not_acceptable", "Not acceptable", "This URL answers with application/json."),
    408: ("request_timeout", "Request timeout", "The request took too long to arrive."),
    411: ("length_required", "Content-Length required", "Send a Content-Length header."),
    413: ("payload_too_large", "Body too large", "The body exceeds the maximum size for this URL."),
    414: ("uri_too_long", "URL too long", "The URL is too long."),
    415: ("unsupported_media_type", "Unsupported media type", "Send application/json."),
    429: ("rate_limited", "Too many requests", "Send fewer requests per minute."),
    431: ("headers_too_large", "Headers too large", "The headers exceed the maximum size."),
    500: ("internal_error", "Internal error", "An internal error occurred. It was logged with the request id."),
    503: ("unavailable", "Unavailable", "Try again later."),
}
#: Headers that describe the body that the problem replaces.
_OF_THE_BODY = frozenset({"content-type", "content-length", "content-encoding", "etag", "last-modified"})


def answer(
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Iterable[Mapping[str, object]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """A problem as a response."""
    return HttpResponse(
        encode(problem(status, code, title, detail, errors)),
        status=status,
        content_type=CONTENT_TYPE,
        headers=dict(headers or {}),
    )


def plain(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> HttpResponse:
    """The default problem of a status."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    code, title, stock = _PLAIN.get(status, (phrase.lower().replace(" ", "_"), phrase, phrase))
    return answer(status, code, title, detail or stock, headers=headers)


def handle(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's exception handler: turn every exception into a problem. Log an unexpected one and answer 500."""
    set_rollback()
    if isinstance(error, ServiceError):
        return _ours(error)
    if isinstance(error, exceptions.APIException):
        return _from_drf(error, context.get("view"))
    if isinstance(error, Http404):
        return plain(404)
    if isinstance(error, PermissionDenied):
        return plain(403)
    if isinstance(error, RequestDataTooBig):
        return plain(413)
    if isinstance(error, SuspiciousOperation):
        return plain(400)
    if isinstance(error, database.AWAY):
        return database_away(error)
    log.error("unhandled error in %s", type(context.get("view")).__name__, exc_info=error)
    return plain(500)


def database_away(error: Exception) -> HttpResponse:
    """The problem for an unavailable database: ``store_unavailable``, as for the other stores."""
    log.warning("store_unavailable: %s", error)
    headers = {"Retry-After": str(database.RETRY_AFTER_S)}
    return answer(503, "store_unavailable", "Store unavailable", f"{database.HEADING}. Try again.", headers=headers)


def _ours(error: ServiceError) -> HttpResponse:
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, ceil(error.retry_after)))}
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", error.code, error)
    return answer(error.status, error.code, error.title, str(error), error.errors or None, headers)


def _wrong_method(view: Any) -> str:
    """The method of the request and the supported ones; empty if they are unknown."""
    allowed = [method for method in getattr(view, "allowed_methods", ()) if method != "OPTIONS"]
    if not allowed:
        return ""
    return f"{view.request.method} is not supported; use {' or '.join(allowed)}."


def _from_drf(error: exceptions.APIException, view: Any = None) -> HttpResponse:
    headers: dict[str, str] = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
    if isinstance(error, exceptions.Throttled):
        headers.update(getattr(error, "headers", None) or {})
        wait_s: float | None = getattr(error, "wait", None)
        if wait_s is not None:
            headers.setdefault("Retry-After", str(max(1, ceil(wait_s))))
        return answer(
            429, "rate_limited", "Too many requests", "You exceeded the limit of requests per minute.", headers=headers
        )
    if isinstance(error, exceptions.ValidationError):
        return answer(400, "invalid_input", "Invalid input", "Some fields are invalid.", list(_flat(error.detail)))
    if isinstance(error, exceptions.ParseError):
        return answer(
            400, "invalid_json", "Invalid JSON", str(error.detail), [{"field": "", "message": str(error.detail)}]
        )
    if isinstance(error, exceptions.MethodNotAllowed):
        return plain(405, _wrong_method(view))
    if isinstance(error, exceptions.NotAcceptable):
        return plain(406)
    if isinstance(error, exceptions.NotAuthenticated):
        return plain(
            error.status_code, "" if error.status_code == HTTPStatus.UNAUTHORIZED else str(error.detail), headers
        )
    return plain(error.status_code, str(error.detail), headers)


def _flat(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    """DRF's nested error details as (dotted field, message) pairs."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            inner_path = path if name == "non_field_errors" else f"{path}.{name}" if path else str(name)
            yield from _flat(inner, inner_path)
    elif isinstance(detail, list | tuple):
        for position, inner in enumerate(detail):
            yield from _flat(inner, f"{path}[{position}]" if isinstance(inner, Mapping) and inner else path)
    else:
        yield {"field": path, "message": str(detail)}


def _wrong_host(request: HttpRequest) -> str:
    try:
        request.get_host()
    except DisallowedHost:
        return "The host in the Host header is not in the setting ALLOWED_HOSTS."
    return ""


def write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Replace gunicorn's ``write_error``, which answers requests that are not valid HTTP."""
    replacement = plain(status_int, mesg)
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(replacement.content)}\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    sock.sendall(head.encode("latin-1") + replacement.content)


class ApiProblems:
    """Turn every error below ``/api`` into a problem: no Django page, no debug page, no stack."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if response.status_code < HTTPStatus.BAD_REQUEST or not (request.path_info + "/").startswith("/api/"):
            return response
        if response.get("Content-Type", "").partition(";")[0] in (CONTENT_TYPE, "application/json"):
            return response  # already a problem, or the answer of health
        headers = {name: value for name, value in response.items() if name.lower() not in _OF_THE_BODY}
        response.close()
        replacement = plain(response.status_code, _wrong_host(request), headers)
        # Set here, because the middleware further in that sets them for every page may not have been reached.
        replacement["Content-Length"] = str(len(replacement.content))
        replacement.setdefault("X-Content-Type-Options", "nosniff")
        return replacement

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponseBase | None:
        """Handle an exception of a plain Django view below ``/api`` as DRF's handler does."""
        if not request.path_info.startswith("/api/"):
            return None
        return handle(error, {"view": None})
