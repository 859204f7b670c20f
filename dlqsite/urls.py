"""Every URL of the site."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from dlqsite.api import apidocs, audit
from dlqsite.health import losses, report
from dlqsite.metrics import views as metrics
from dlqsite.overview import views

admin.autodiscover()  # registers the pages of the console, before their addresses are read below

handler403 = "dlqsite.pages.refused"
handler404 = "dlqsite.pages.not_found"
handler500 = "dlqsite.pages.broken"

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    # For whoever asks without having read a page: browsers that show an answer of the API.
    path("favicon.ico", RedirectView.as_view(url=f"{settings.STATIC_URL}console/favicon.svg"), name="favicon"),
    path("api/system/live", report.LiveView.as_view(), name="live"),
    path("api/system/ready", report.ReadyView.as_view(), name="ready"),
    path("api/system/health", report.HealthView.as_view(), name="health"),
    path("api/system/overview", views.OverviewView.as_view(), name="overview"),
    path("api/system/losses", losses.LossesView.as_view(), name="losses"),
    path("api/system/losses/<str:loss_id>/acknowledge", losses.AcknowledgeView.as_view(), name="loss_acknowledge"),
    path("api/audit", audit.AuditView.as_view(), name="audit"),
    path("api/audit/export", audit.AuditExportView.as_view(), name="audit-export"),
    path("metrics", metrics.MetricsView.as_view(), name="metrics"),
    path("api/schema", apidocs.SchemaView.as_view(), name="schema"),
    path("api/docs", apidocs.DocsView.as_view(), name="docs"),
    path("", include("messages_app.rest.urls")),
    path("", include("dlq_app.rest.urls")),
    path("", include("breaker_app.urls")),
    path(
        "admin/overview/fragment",
        admin.site.admin_view(views.fragment),
        name="overview_fragment",
    ),
    path("admin/", admin.site.urls),
]
if settings.OIDC_ISSUER:
    urlpatterns.append(path("", include("dlqsite.sign_in.urls")))
