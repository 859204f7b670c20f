"""Every URL of the site."""

from __future__ import annotations

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from dlqsite import apidocs, health

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("api/system/live", health.LiveView.as_view(), name="live"),
    path("api/system/ready", health.ReadyView.as_view(), name="ready"),
    path("api/system/health", health.HealthView.as_view(), name="health"),
    path("api/schema", apidocs.SchemaView.as_view(), name="schema"),
    path("api/docs", apidocs.DocsView.as_view(), name="docs"),
    *[
        path("", include(f"{app}.urls"))
        for app in ("messages_app", "dlq_app", "breaker_app")
        if find_spec(f"{app}.urls")
    ],
    path("admin/django-rq/", include("django_rq.urls")),
    path("admin/", admin.site.urls),
]
