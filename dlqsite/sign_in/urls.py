"""Addresses of OpenID Connect; present only if it is on."""

from __future__ import annotations

from django.urls import path

from dlqsite.sign_in import provider_views

urlpatterns = [
    path("sign-in/provider/", provider_views.start, name="oidc_start"),
    path("sign-in/provider/callback/", provider_views.callback, name="oidc_callback"),
]
