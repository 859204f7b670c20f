"""The operations console: Django's admin with its own header, tabs and roles."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

from dlqsite import tabs
from dlqsite.roles import MAY, role_of
from dlqsite.version import VERSION

_AUDIT_LOG = "admin:audit_app_auditline_changelist"


class LoginForm(AdminAuthenticationForm):
    """Login form whose error mentions the lockout but not whether name or password was wrong."""

    error_messages = {  # noqa: RUF012  # an instance attribute to Django's stubs
        **AdminAuthenticationForm.error_messages,
        "invalid_login": "Wrong username or password. "
        f"After {settings.AXES_FAILURE_LIMIT} failures this name waits "
        f"{round(settings.AXES_COOLOFF_TIME.total_seconds() / 60)} minutes.",
    }


class ConsoleSite(admin.AdminSite):
    """The default admin site: models registered with ``admin.site`` are pages of the console."""

    site_header = "Dead letters"
    site_title = "Dead letters"
    index_title = "Overview"
    site_url = None
    login_form = LoginForm
    enable_nav_sidebar = False  # the tabs take its place

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Django's context plus the header's: environment, tabs with counts, and the user's role."""
        context = super().each_context(request)
        context["environment"] = settings.ENVIRONMENT
        context["version"] = VERSION
        if context["has_permission"]:
            context["console_menu"] = "dlqsite/menu.html"
            context["console_tabs"] = tabs.for_request(request)
            context["console_role"] = role_of(request.user)
        return context

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Django's login page with rate limits."""

        def sign_in() -> HttpResponse:
            return super(ConsoleSite, self).login(request, extra_context)

        if request.method != "POST":
            return sign_in()
        from dlqsite.sign_in import limits  # needs the apps, and this module is what Django makes the site of

        return cast("HttpResponse", limits.guarded(request, sign_in))

    def get_urls(self) -> list[URLPattern | URLResolver]:
        # Drop Django's redirect to an object's public page: there are none, and it fails for models without tables.
        inherited = [url for url in super().get_urls() if getattr(url, "name", "") != "view_on_site"]
        old_log = path("admin/logentry/", self.admin_view(RedirectView.as_view(pattern_name=_AUDIT_LOG)))
        return [
            path("you/", self.admin_view(self.account), name="account"),
            path("docs/<slug:name>/", self.admin_view(self.docs), name="docs"),
            old_log,
            *inherited,
        ]

    @method_decorator(never_cache)
    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The overview, for users with any view permission."""
        from dlqsite.access import must_look  # needs the apps, and this module is what Django makes the site of

        must_look(request)
        return super().index(request, extra_context)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Django's page; also records the change in the audit log."""
        from audit_app.lines import record  # needs the apps

        answer = super().password_change(request, extra_context)
        if request.method == "POST" and answer.status_code == HTTPStatus.FOUND:
            name = request.user.get_username()
            record(f"user:{name}", "password changed", kind="user", object_id=str(request.user.pk), name=name)
        return answer

    @method_decorator(require_safe)
    def docs(self, request: HttpRequest, name: str) -> HttpResponse:
        """A page of ``docs/``."""
        from dlqsite import doc_pages  # needs the apps

        return doc_pages.page(request, name)

    def account(self, request: HttpRequest) -> HttpResponse:
        """The permissions of the signed-in user."""
        may = [(what, not needed or request.user.has_perm(needed)) for needed, what in MAY]
        context = {**self.each_context(request), "title": "Your permissions", "may": may}
        return TemplateResponse(request, "dlqsite/account.html", context)
