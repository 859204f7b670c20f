"""Error pages of the console: 403, 404, 500, 503 and login lockout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from breaker_app.errors import StoreUnavailable as BreakersUnavailable
from dlq_app.domain.errors import QueryTooSlow
from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlqsite import database
from dlqsite.api import problems
from messages_app.domain.errors import StoreUnavailable as LedgerUnavailable
from wire.errors import ServiceError

log = logging.getLogger(__name__)

_LETTERS_UNAVAILABLE = (
    "No letter is lost: new ones wait in Redis until MongoDB is back, and messages are still processed. Lists, replays "
    "and edits are unavailable until then."
)
_LEDGER_UNAVAILABLE = (
    "No accepted message is lost: processing continues when Redis is back. Until then new messages are rejected, so "
    "clients keep them."
)
_SLOW = "The query was stopped because it took too long. Narrow the filter or change the sort order."


def _frame(request: HttpRequest) -> dict[str, Any]:
    """Context of the header for signed-in staff; minimal for others."""
    user = getattr(request, "user", None)
    if user is None or not user.is_active or not user.is_staff:
        return {"environment": settings.ENVIRONMENT}
    return admin.site.each_context(request)


def _page(request: HttpRequest, status: int, more: Mapping[str, Any]) -> HttpResponse:
    context = {**_frame(request), "request_id": getattr(request, "request_id", ""), **more}
    return render(request, f"{status}.html", context, status=status)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 with the text of the exception, if it is ours; Django's own texts contain paths."""
    said = exception.args[0] if exception.args and isinstance(exception.args[0], str) else ""
    return _page(request, 404, {"said": said})


def refused(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, with the reason if there is one."""
    return _page(request, 403, {"said": str(exception)})


def broken(request: HttpRequest) -> HttpResponse:
    """500, or 503 if the database is unavailable. Uses no database and no store."""
    error = sys.exception()
    if isinstance(error, database.AWAY):  # raised outside of a view: while a session was read or written
        return database_away(request, error)
    context = {"request_id": getattr(request, "request_id", ""), "environment": settings.ENVIRONMENT}
    return render(None, "500.html", context, status=500)


def sign_in_later(request: HttpRequest, status: int, seconds: int, why: str) -> HttpResponse:
    """The login page with a time to retry; no password was checked."""
    return _login_page(request, status, seconds, f"{why} Try again in {seconds} seconds.")


def sign_in_refused(request: HttpRequest, status: int, heading: str, said: str) -> HttpResponse:
    """Why a sign-in at the identity provider did not succeed, with a link to the login page."""
    more = {**_frame(request), "heading": heading, "said": said}
    return render(request, "dlqsite/sign_in_refused.html", more, status=status)


def database_away(request: HttpRequest, error: Exception) -> HttpResponse:
    """503 without user name and menu, which need the database."""
    if request.path_info.startswith("/api/"):
        return problems.database_away(error)
    log.warning("%s: %s", database.HEADING, error)
    context = {
        "request_id": getattr(request, "request_id", ""),
        "environment": settings.ENVIRONMENT,
        "heading": database.HEADING,
        "said": database.SAID,
        "again": request.get_full_path() if request.method == "GET" else request.path,
    }
    answer = render(None, "503.html", context, status=503)
    answer["Retry-After"] = str(database.RETRY_AFTER_S)
    return answer


def locked_out(request: HttpRequest, credentials: Any = None, *args: Any, **kwargs: Any) -> HttpResponse:
    """The login page after too many wrong passwords, with the lockout time."""
    minutes = round(settings.AXES_COOLOFF_TIME.total_seconds() / 60)
    return _login_page(
        request,
        HTTPStatus.TOO_MANY_REQUESTS,
        minutes * 60,
        f"Too many wrong passwords for this name from your address. Logins with it are blocked for {minutes} minutes; "
        "other users are not affected.",
    )


def _login_page(request: HttpRequest, status: int, seconds: int, said: str) -> HttpResponse:
    login = reverse("admin:login")
    context = {
        **admin.site.each_context(request),
        "form": admin.site.login_form(request),  # type: ignore[misc]
        # Other pages answer with it, too: they are no place for a password.
        "app_path": request.get_full_path() if request.path == login else login,
        "next": request.POST.get("next", ""),
        "locked_out": said,
    }
    answer = render(request, "admin/login.html", context, status=status)
    answer["Retry-After"] = str(seconds)
    return answer


class ConsoleErrors:
    """Middleware outside ``/api``: show an error page for an unavailable store; log unexpected errors.

    Django's own log of unhandled errors is off, because the problem handler logs those below ``/api``.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponseBase | None:
        if request.path_info.startswith("/api/"):
            return None
        if isinstance(error, LettersUnavailable):
            return self._unavailable(request, error, "MongoDB is not responding", _LETTERS_UNAVAILABLE)
        if isinstance(error, BreakersUnavailable | LedgerUnavailable):
            return self._unavailable(request, error, "Redis is not responding", _LEDGER_UNAVAILABLE)
        if isinstance(error, database.AWAY):
            return database_away(request, error)
        if isinstance(error, QueryTooSlow):
            return self._unavailable(request, error, "This takes too long", _SLOW)
        if isinstance(error, ServiceError) and error.status == HTTPStatus.NOT_FOUND:
            return not_found(request, error)
        if not isinstance(error, Http404 | PermissionDenied | SuspiciousOperation):
            log.error("unhandled error at %s", request.path_info[:256], exc_info=error)
        return None

    def _unavailable(self, request: HttpRequest, error: Exception, heading: str, said: str) -> HttpResponse:
        log.warning("%s: %s", heading, error)
        again = request.get_full_path() if request.method == "GET" else request.path
        answer = _page(request, 503, {"heading": heading, "said": said, "again": again})
        answer["Retry-After"] = "5"
        return answer
