"""RQ's pages in the console, with permissions: the library allows every member of staff everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

import django_rq.utils
import django_rq.views
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern
from django_rq.admin import QueueAdmin as StockQueueAdmin
from django_rq.models import Dashboard
from django_rq.queues import get_queue_by_index
from django_rq.settings import get_queues_list
from rq.exceptions import NoSuchJobError
from rq.worker import Worker

from console import permissions
from dlqsite.access import may_look, must_look
from messages_app.jobs import WakeUpJob

admin.site.unregister(Dashboard)
# The library's pages read jobs of RQ's own class, which does not know wake-ups that are stored as an id alone.
for _library in (django_rq.views, django_rq.utils):
    _library.Job = WakeUpJob  # type: ignore[attr-defined]

#: Pages of django-rq that change something with any method, by suffix of their name.
_RQ_WRITES = ("_clear", "requeue_all", "delete_failed_jobs", "delete_job", "requeue_job", "actions", "stop_job")
#: Pages that show Redis connection details, for administrators only.
_RQ_CONNECTIONS = ("home_json", "metrics", "queue_details")
#: Pages for rq-scheduler and RQ's cron, which do not run here and would fail.
_RQ_ABSENT = ("scheduler_jobs", "cron_scheduler_detail", "cron_job_detail")
#: Valid job ids; RQ raises for others.
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


@admin.register(Dashboard)
class QueueAdmin(StockQueueAdmin):
    """RQ's pages: any view permission to read, the administrator's permission to change.

    RQ only holds wake-up jobs: emptying a queue loses no message.
    """

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_look(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_look(request.user)

    def get_urls(self) -> list[URLPattern]:
        """RQ's pages and the list, without Django's forms: the model has no table."""
        urls = super().get_urls()  # type: ignore[no-untyped-call]
        list_name = "django_rq_dashboard_changelist"
        ours = [url for url in urls if url.name == list_name or not _is_form(url)]
        return [_guarded(url) for url in ours if not str(url.name).endswith(_RQ_ABSENT)]


def _is_form(url: URLPattern) -> bool:
    return url.name is None or url.name.startswith("django_rq_dashboard_")


def _guarded(url: URLPattern) -> URLPattern:
    """Wrap a URL: POSTs and confirmation pages need permission to control queues."""
    view: Callable[..., HttpResponse] = url.callback
    name = url.name or ""
    is_write = name.endswith((*_RQ_WRITES, "enqueue_job", "confirm_action"))

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not (request.user.is_authenticated and request.user.is_active and request.user.is_staff):
            return view(request, *args, **kwargs)  # it sends strangers away itself
        must_look(request)
        if not permissions.can(request, permissions.ADMIN):
            if is_write or request.method not in ("GET", "HEAD"):
                raise PermissionDenied("Controlling queues needs the role administrator.")
            if name.endswith(_RQ_CONNECTIONS):
                raise PermissionDenied("Redis connection details are shown to administrators only.")
        _must_exist(request, kwargs)
        try:
            answer = view(request, *args, **kwargs)
        except NoSuchJobError as error:
            raise Http404("This job no longer exists: RQ deletes finished jobs.") from error
        if is_write and request.method == "POST" and answer.status_code == HTTPStatus.FOUND:
            _record(request, name, kwargs)
        return answer

    return URLPattern(url.pattern, guarded, url.default_args, url.name)


def _record(request: HttpRequest, page: str, named: Mapping[str, Any]) -> None:
    """Add a line to the audit log; called after a redirect, which means that something changed."""
    jobs = request.POST.getlist("job_ids")
    what = page.removeprefix("django_rq_").replace("_", " ")
    action = request.POST.get("action", "")
    queue = get_queue_by_index(named.get("queue_index", 0)).name
    permissions.record_audit(
        request,
        "",
        " ".join([queue, str(named.get("job_id", "")), *jobs]).strip(),
        f"queue page: {what} {action}".strip(),
        "",
        about=Dashboard,
        count=len(jobs) or None,
    )


def _must_exist(request: HttpRequest, named: Mapping[str, Any]) -> None:
    """Raise ``Http404`` for unknown queues, jobs and workers, for which the library returns 500."""
    index = named.get("queue_index", 0)
    if index >= len(get_queues_list()):
        raise Http404("There is no such queue.")
    jobs = [named.get("job_id", "none"), named.get("result_id", "none")]
    jobs += [*request.POST.getlist("job_ids"), *request.POST.getlist("_selected_action")]
    if not all(_JOB_ID.fullmatch(job) for job in jobs):
        raise Http404("There is no such job.")
    key = named.get("key")
    if key is not None and (
        not key.startswith(Worker.redis_worker_namespace_prefix)
        or Worker.find_by_key(key, connection=get_queue_by_index(index).connection) is None
    ):
        raise Http404("There is no such worker.")
