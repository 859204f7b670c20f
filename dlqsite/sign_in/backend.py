"""Users of sessions that began at the identity provider."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User

#: In a session: the user signed in at the identity provider.
PROVIDER_BACKEND: Final = "dlqsite.sign_in.backend.ProviderBackend"


class ProviderBackend(BaseBackend):
    """Accepts no credentials. Its sessions end when OpenID Connect is switched off, or the user is deactivated."""

    def get_user(self, user_id: Any) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first() if settings.OIDC_ISSUER else None
