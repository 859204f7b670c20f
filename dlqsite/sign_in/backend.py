"""Users of sessions that began at the identity provider."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User
from django.http import HttpRequest

#: In a session: the user signed in at the identity provider.
PROVIDER_BACKEND: Final = "dlqsite.sign_in.backend.ProviderBackend"


class ProviderBackend(BaseBackend):
    """Accepts no credentials. Its sessions end when OpenID Connect is switched off, or the user is deactivated."""

    def get_user(self, user_id: Any) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first() if settings.OIDC_ISSUER else None


def came_from_provider(request: HttpRequest) -> bool:
    """Whether this session began at the identity provider."""
    return request.session.get(BACKEND_SESSION_KEY) == PROVIDER_BACKEND
