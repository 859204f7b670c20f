"""The operations console: Django's admin with its own header, tabs and roles."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
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

    def confirm_login_allowed(self, user: Any) -> None:
        """After the right password: raise ``ValidationError`` for a user who must sign in elsewhere."""
        super().confirm_login_allowed(user)
        if not settings.OIDC_ISSUER:
            return
        from audit_app.lines import record  # needs the apps
        from dlqsite.sign_in.accounts import belongs_to_provider

        if belongs_to_provider(user) or not (settings.LOCAL_SIGN_IN or user.is_superuser):
            name, why = user.get_username(), "a password is not accepted for this user"
            record(f"user:{name}", "failed sign-in", kind="user", object_id=str(user.pk), name=name, why=why)
            raise ValidationError(f"{name} logs in with {settings.OIDC_NAME}, not with a password.")


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
        context["sign_in_provider"] = settings.OIDC_NAME if settings.OIDC_ISSUER else ""
        context["local_sign_in"] = settings.LOCAL_SIGN_IN
        if context["has_permission"]:
            context["console_menu"] = "dlqsite/menu.html"
            context["console_tabs"] = tabs.for_request(request)
            context["console_role"] = role_of(request.user)
        return context

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Django's login page with rate limits; after the password, the second factor of users who have one."""
        from django.contrib.auth.views import LoginView  # they need the apps, and Django makes its site of this module

        from dlqsite.sign_in import limits, views

        class PasswordPage(LoginView):
            def form_valid(self, form: Any) -> HttpResponse:
                answer = views.after_password(self.request, form.get_user(), self.get_success_url())
                return cast("HttpResponse", answer)

        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        context = {
            **self.each_context(request),
            "title": "Log in",
            "app_path": request.get_full_path(),
            **(extra_context or {}),
        }
        page = PasswordPage.as_view(
            authentication_form=self.login_form, template_name="admin/login.html", extra_context=context
        )

        def sign_in() -> HttpResponseBase:
            return page(request)

        return cast("HttpResponse", limits.guarded(request, sign_in) if request.method == "POST" else sign_in())

    def get_urls(self) -> list[URLPattern | URLResolver]:
        # Drop Django's redirect to an object's public page: there are none, and it fails for models without tables.
        inherited = [url for url in super().get_urls() if getattr(url, "name", "") != "view_on_site"]
        old_log = path("admin/logentry/", self.admin_view(RedirectView.as_view(pattern_name=_AUDIT_LOG)))
        from dlqsite.sign_in import views  # needs the apps

        return [
            path("login/code/", views.code, name="second_factor_code"),
            path("login/set-up/", views.set_up, name="second_factor_set_up"),
            path("you/", self.admin_view(self.account), name="account"),
            path("you/second-factor/", self.admin_view(views.account), name="second_factor"),
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
