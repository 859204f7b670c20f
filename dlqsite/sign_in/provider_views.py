"""The way to the identity provider and back."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from audit_app.lines import record
from dlqsite import pages
from dlqsite.access import client_address
from dlqsite.sign_in import accounts, limits, provider
from dlqsite.sign_in.backend import PROVIDER_BACKEND
from dlqsite.sign_in.policy import sign_in_policy


@never_cache
@require_POST
def start(request: HttpRequest) -> HttpResponseBase:
    """A page that leads to the provider.

    No redirect: browsers apply ``form-action`` of the content security policy to redirects of a form, over all hosts
    that a provider may redirect to.
    """

    def leave() -> HttpResponseBase:
        try:
            url = provider.start(request, _local_path(request, request.POST.get("next", "")))
        except provider.Refused as error:
            return _refused(request, error)
        context = {**admin.site.each_context(request), "url": url, "provider": settings.OIDC_NAME}
        return TemplateResponse(request, "admin/sign_in_continue.html", context)

    return limits.guarded_at_provider(request, leave, counts=True)


@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponseBase:
    """Sign in the user whom the provider has sent back."""

    def finish() -> HttpResponseBase:
        who = f"address:{client_address(request)}"
        try:
            identity, next_url = provider.finish(request)
        except provider.Refused as error:
            if error.is_recorded:
                record(who, "failed sign-in", kind="user", why=f"{settings.OIDC_NAME}: {error.said}")
            return _refused(request, error)
        try:
            user = accounts.account_of(identity, who=who)
        except provider.Refused as error:
            return _refused(request, error)
        login(request, user, backend=PROVIDER_BACKEND)
        request.session.set_expiry(timezone.now() + sign_in_policy().session)
        return HttpResponseRedirect(_local_path(request, next_url))

    return limits.guarded_at_provider(request, finish, counts=False)


def _refused(request: HttpRequest, error: provider.Refused) -> HttpResponseBase:
    return pages.sign_in_refused(request, error.status, error.heading, error.said)


def _local_path(request: HttpRequest, url: str) -> str:
    """``url`` if it is one of this site, else the overview."""
    is_local = url_has_allowed_host_and_scheme(
        url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return url if is_local else reverse("admin:index")
