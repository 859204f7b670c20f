"""Hooks of django-allauth: secrets of second factors, and HTTP requests to the identity provider."""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.conf import settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: Seconds to connect to the provider, and for each wait for a part of its response.
TIMEOUTS_S: Final = (3.0, 5.0)


class UnreadableSecret(Exception):
    """The secret of a second factor was encrypted with another ``SECRET_KEY``."""


class FactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Encrypts secrets with a key derived from ``SECRET_KEY``: a copy of the database is no second factor."""

    def get_totp_label(self, user: Any) -> str:
        return str(user.get_username())

    def encrypt(self, text: str) -> str:
        return _ciphers().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        from cryptography.fernet import InvalidToken

        try:
            return _ciphers().decrypt(encrypted_text.encode()).decode()
        except InvalidToken as error:
            raise UnreadableSecret from error


class ProviderAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def get_requests_session(self) -> Any:
        """A session with timeouts that follows no redirect, which could lead from https to http."""
        import requests  # only processes that ask a provider need it

        session = requests.Session()
        session.request = partial(session.request, timeout=TIMEOUTS_S, allow_redirects=False)  # type: ignore[method-assign]
        return session


def _ciphers() -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet  # 9 MB, for which most processes have no use

    keys: list[str] = [str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS)]
    digests = (hashlib.sha256(f"dlqsite.sign_in.second_factor {key}".encode()).digest() for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
