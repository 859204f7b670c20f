"""Which groups of the identity provider have which role, and for how long such a sign-in lasts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.signals import setting_changed

from dlqsite.roles import ADMINISTRATOR, OPERATOR, ROLES, VIEWER
from wire.errors import PolicyError
from wire.fields import integer, list_of, text
from wire.policy import read_table, refuse_unknown_tables, table

FILE = "dlqsite/policies/sign_in.toml"
#: Maximum length of the issuer, as it is stored with each user.
MAX_ISSUER = 200
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_WELL_KNOWN = "/.well-known/openid-configuration"
_groups = list_of(text(200, empty=False), 0, 100, "a list of up to 100 names of groups")


@dataclass(frozen=True, slots=True)
class SignInPolicy:
    """The parsed ``sign_in.toml``. By default no group has a role, so no one can sign in with OpenID Connect."""

    viewer: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    administrator: tuple[str, ...] = ()
    session_hours: int = 8

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, file: str = FILE) -> SignInPolicy:
        """The policy in a parsed file; raises ``PolicyError`` naming key, value and what is allowed."""
        tables = {"session_hours", "roles"}
        refuse_unknown_tables(raw, sorted(tables), file)
        rest = {key: value for key, value in raw.items() if key != "roles"}
        found = read_table(rest, {"session_hours": integer(1, 24)}, file)
        roles = read_table(
            table(raw, "roles", file), dict.fromkeys((VIEWER, OPERATOR, ADMINISTRATOR), _groups), f"{file} [roles]"
        )
        return cls(**found, **roles)

    @property
    def session(self) -> timedelta:
        """Maximum time from a sign-in with OpenID Connect to the next one."""
        return timedelta(hours=self.session_hours)

    @property
    def has_roles(self) -> bool:
        return bool(self.viewer or self.operator or self.administrator)

    def role_of(self, groups: Collection[str]) -> str:
        """The highest role of a user in these groups; empty without one."""
        return next((role for role in ROLES if not set(groups).isdisjoint(getattr(self, role))), "")


@cache
def sign_in_policy() -> SignInPolicy:
    """The policy of the configured file; raises ``PolicyError`` if it is not valid."""
    if problem := settings.SIGN_IN_POLICY_PROBLEM:
        raise PolicyError(problem)
    return SignInPolicy.parse(settings.SIGN_IN_POLICY, file=settings.SIGN_IN_POLICY_FILE)


def issuer() -> str:
    """``OIDC_ISSUER`` without the discovery path and a slash at its end; empty if OpenID Connect is off."""
    return str(settings.OIDC_ISSUER).removesuffix(_WELL_KNOWN).rstrip("/")


def issuer_problem() -> str:
    """Why ``OIDC_ISSUER`` cannot be used; empty if it can."""
    url = issuer()
    if len(url) > MAX_ISSUER:
        return f"it has more than {MAX_ISSUER} characters."
    if "?" in url or "#" in url:
        return f"{url!r} must not contain a query or a fragment."
    return url_problem(url)


def url_problem(url: str) -> str:
    """Why sign-ins must not use this URL of a provider; empty if they can."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        return f"{url!r} is not a URL: {error}."
    if not host:
        return f"{url!r} is not a URL with a host."
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        return f"{url!r} must begin with https://; only addresses of this machine can use http://."
    if parts.username or parts.password:
        return f"{parts.scheme}://{host} must not contain a user name or a password."
    return ""


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("SIGN_IN_POLICY", "SIGN_IN_POLICY_FILE", "SIGN_IN_POLICY_PROBLEM"):
        sign_in_policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="dlqsite.sign_in.policy")
