"""RQ's own pages in the console, with permissions: the library lets every member of staff do everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern
from django_rq.admin import QueueAdmin as StockQueueAdmin
from django_rq.models import Dashboard
from rq.exceptions import NoSuchJobError

admin.site.unregister(Dashboard)

#: Pages of django-rq that change something, by the end of their name, whatever the method.
_RQ_WRITES = ("_clear", "requeue_all", "delete_failed_jobs", "delete_job", "requeue_job", "actions", "stop_job")


@admin.register(Dashboard)
class QueueAdmin(StockQueueAdmin):
    """RQ's own pages. Every member of staff may look; what changes something needs the permission of administrators.

    RQ only carries wake-ups: emptying a queue loses no message, yet it is nobody's daily work.
    """

    def has_module_permission(self, request: HttpRequest) -> bool:
        return True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def get_urls(self) -> list[URLPattern]:
        return [_guarded(url) for url in super().get_urls()]  # type: ignore[no-untyped-call]


def _guarded(url: URLPattern) -> URLPattern:
    """The same URL; POSTs and the pages that lead to one are refused to those who may not control queues."""
    view: Callable[..., HttpResponse] = url.callback
    is_write = (url.name or "").endswith((*_RQ_WRITES, "enqueue_job", "confirm_action"))

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        writes = is_write or request.method not in ("GET", "HEAD")
        if writes and request.user.is_authenticated and not request.user.has_perm("dlqsite.admin"):
            raise PermissionDenied("Controlling queues needs the role administrator.")
        try:
            return view(request, *args, **kwargs)
        except NoSuchJobError as error:
            raise Http404("This job is gone: RQ forgets jobs that are over.") from error

    return URLPattern(url.pattern, guarded, url.default_args, url.name)
